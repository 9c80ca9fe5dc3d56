"""The Dagster side, the only room that imports Dagster: one file a noun of the round, plus checks and sensors."""
