//! Records that could not be delivered, in a Delta table that any engine can query.
