"""Buses and the one delivery engine behind them."""
