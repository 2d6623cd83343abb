"""The host computer as a target."""
