//! Writes sample lakes: the small catalogue of sample/, and generated ones of any size.
