"""The tabs of the page: each lays out its controls, and says what they call."""
