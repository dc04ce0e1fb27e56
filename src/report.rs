//! What was done, counted.
