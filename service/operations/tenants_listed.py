"""Which tenants there are."""

from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session


def list_tenants(session: Session) -> list[Row[Any]]:
    """Every tenant that has a key or anything else, with how much of it."""
    return list(
        session.execute(
            text("""WITH named AS (SELECT tenant FROM api_keys UNION SELECT tenant FROM audits
                      UNION SELECT tenant FROM series UNION SELECT tenant FROM models
                      UNION SELECT tenant FROM tenant_prompt_sets UNION SELECT tenant FROM policies
                      UNION SELECT tenant FROM webhooks)
                    SELECT tenant,
                      (SELECT count(*) FROM audits a WHERE a.tenant = n.tenant) AS audits,
                      (SELECT count(*) FROM audits a WHERE a.tenant = n.tenant
                        AND a.state IN ('QUEUED','RUNNING')) AS open_audits,
                      (SELECT count(*) FROM series s WHERE s.tenant = n.tenant) AS series,
                      (SELECT count(*) FROM models m WHERE m.tenant = n.tenant) AS models,
                      (SELECT count(*) FROM tenant_prompt_sets p WHERE p.tenant = n.tenant) AS prompt_sets,
                      (SELECT count(*) FROM api_keys k WHERE k.tenant = n.tenant AND k.revoked_at IS NULL
                        AND (k.expires_at IS NULL OR k.expires_at > now())) AS live_keys
                    FROM named n ORDER BY tenant""")
        ).all()
    )
