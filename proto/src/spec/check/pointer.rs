//! Where in a request a field is, written out only if something is wrong with it.
//!
//! A valid task has some forty fields to check and a batch ten thousand tasks: building a text for each would cost more than
//! all the checks.

use std::fmt;

/// A JSON pointer (RFC 6901) as a chain of borrowed tokens.
#[derive(Clone, Copy)]
pub(crate) enum Pointer<'a> {
    /// What the caller says comes before.
    Below(&'a str),
    /// A field of that name.
    Field(&'a Pointer<'a>, &'static str),
    /// A place in a list.
    Index(&'a Pointer<'a>, usize),
    /// A name that the request made up.
    Key(&'a Pointer<'a>, &'a str),
}

impl<'a> Pointer<'a> {
    pub(crate) const fn field(&'a self, name: &'static str) -> Self {
        Self::Field(self, name)
    }

    pub(crate) const fn index(&'a self, index: usize) -> Self {
        Self::Index(self, index)
    }

    pub(crate) const fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }
}

impl fmt::Display for Pointer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below(at) => f.write_str(at),
            Self::Field(parent, name) => write!(f, "{parent}/{name}"),
            Self::Index(parent, index) => write!(f, "{parent}/{index}"),
            Self::Key(parent, key) => write!(f, "{parent}/{}", key.replace('~', "~0").replace('/', "~1")),
        }
    }
}
