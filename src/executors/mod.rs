//! Work from outside the program: commands, and what their output says.

pub(crate) mod output;
