"""Engines that keep streams of events on disk; each is found by the scheme of its URL."""
