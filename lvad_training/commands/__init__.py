"""The commands of ``lvad-train``: their options, and the calls behind them."""
