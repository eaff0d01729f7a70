//! Handmade histories: a good one, and for each invariant a bad one.
