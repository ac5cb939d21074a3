"""SEV-SNP: the report, its certificates, and their examination."""
