"""One file per verb: begin -> read -> decide -> write. No HTTP here."""
