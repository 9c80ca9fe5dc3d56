"""The Dagster side: one file a noun of the round, plus partitions, checks and sensors. The only room that imports Dagster."""
