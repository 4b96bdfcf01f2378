"""Schedules and programs without a network: what they cost, and in which orders their operations may come."""
