"""All-reduce and its relatives: what ranks must agree on, what is decided from it, and the plan that runs."""
