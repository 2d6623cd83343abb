"""How a plan is run: the one unit of work, the local engine, and Prefect's."""
