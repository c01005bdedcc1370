"""Configuration as trees of frozen dataclasses: their views (Python, TOML, KEY=VALUE) and amounts as people write them."""
