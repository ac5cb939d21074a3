"""From bytes to a report that may be believed: ``bytes -> Report -> VerifiedReport``.

What this package does not trust: everything it is handed. The report, the certificates that come
with it and the clock are the host's; the policy is measured into the image or given by the
verifier.
"""
