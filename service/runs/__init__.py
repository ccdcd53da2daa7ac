"""The queue: one state machine, one readable statement per transition. The row is the job, a message a doorbell."""
