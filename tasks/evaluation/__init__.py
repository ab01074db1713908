"""Pure measures of a one-step law: distances, memorisation, the error budget, plots and the report page."""
