"""Evidence checked on any machine: attest, verify, measure; files, AMD's key server, words."""
