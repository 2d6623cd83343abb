"""A MAX78000-class accelerator: number format, rules, program, simulator, costs, a model that fits it."""
