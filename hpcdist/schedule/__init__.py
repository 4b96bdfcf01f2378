"""A collective algorithm as data: schedules, the proof of each, and one rank's program made from it."""
