"""What a run shows: findings as text, the table, the certificate."""
