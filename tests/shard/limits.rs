//! How fast commands may come.
