"""Warm children: launched, attested and granted the snapshot before anybody asks for a fork."""
