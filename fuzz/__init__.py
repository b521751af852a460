"""This project's own campaigns: their configuration, ledger and corpus."""
