"""Campaigns: ports under drawn cases for hours, in processes that may be killed.

A campaign (`plan`) is cut into streams, one for each process; a stream is a row of
batches, each a run of hypothesis over the cases of one op (`batch`). What was checked
is appended to the stream's file (`state`), from which everything else is made: totals,
the ledger of findings, the point where a killed campaign goes on.
"""
