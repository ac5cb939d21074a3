"""TDX: the quote, its chain and collateral, and their examination."""
