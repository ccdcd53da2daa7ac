"""The ledger: tables, SQL by noun, one state machine. The row is the job; a message is only a doorbell."""
