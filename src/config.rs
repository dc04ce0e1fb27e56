//! The configuration file, the environment, and offline validation.
