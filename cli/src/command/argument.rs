//! Values on the command line, each with its own sentence for what is wrong with it.

use std::collections::BTreeSet;
use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;

use orca_proto::limits;
use orca_proto::secret::is_valid_name;
use orca_proto::spec::SecretFile;

use crate::error::Failure;

/// A pair, such as a label.
///
/// # Errors
/// What a pair looks like.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

/// A pair whose value is not empty.
///
/// # Errors
/// What such a pair looks like.
pub(super) fn wish(text: &str) -> Result<(String, String), String> {
    match pair(text)? {
        (key, value) if value.is_empty() => Err(format!("has no value; {key}=* takes any")),
        pair => Ok(pair),
    }
}

/// A label, as it is sent.
///
/// # Errors
/// What one looks like.
pub(super) fn label(text: &str) -> Result<String, String> {
    pair(text).map(|_| text.to_owned())
}

/// An environment variable.
///
/// # Errors
/// What one looks like.
pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = pair(text).map_err(|_| "must be NAME=VALUE".to_owned())?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(plain) {
        return Err(format!(
            "{name:?} is not a name; it has letters, digits and _, and begins with no digit"
        ));
    }
    Ok((name, value))
}

/// A secret's name, and what its file is called where that is something else.
///
/// # Errors
/// What that looks like.
pub(super) fn secret(text: &str) -> Result<SecretFile, String> {
    let (name, file) = match text.split_once('=') {
        Some((name, file)) => (name, Some(file)),
        None => (text, None),
    };
    if !is_valid_name(name) || file.is_some_and(|file| !is_valid_name(file)) {
        return Err("must be NAME or NAME=FILE, both of 1 to 128 letters, digits or any of ._- and without a dot in front; the \
                    value is set by `orca secret set NAME`"
            .to_owned());
    }
    Ok(SecretFile { name: name.to_owned(), r#as: file.map(ToOwned::to_owned) })
}

/// A whole number.
///
/// # Errors
/// Why it is none.
pub(super) fn number<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: ParseIntError| {
        let negative = text.strip_prefix('-').is_some_and(|text| text.parse::<u128>().is_ok());
        match error.kind() {
            IntErrorKind::PosOverflow => "too large a number",
            IntErrorKind::NegOverflow => "too small a number",
            _ if negative => "must not be negative",
            _ => "not a whole number",
        }
        .to_owned()
    })
}

/// How many, at least one.
///
/// # Errors
/// Why it is no such number.
pub(super) fn from_one(text: &str) -> Result<i32, String> {
    number(text).and_then(|n| if n >= 1 { Ok(n) } else { Err("must be at least 1".to_owned()) })
}

/// How many lines from the end.
///
/// # Errors
/// The range.
pub(super) fn tail(text: &str) -> Result<u32, String> {
    match number(text)? {
        lines if (1..=1_000_000).contains(&lines) => Ok(lines),
        _ => Err("must lie between 1 and 1,000,000".to_owned()),
    }
}

/// A number of processors.
///
/// # Errors
/// What one looks like.
pub(super) fn cpus(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "not a number such as 0.5 or 2".to_owned())
}

/// Tasks per page.
///
/// # Errors
/// The range.
pub(super) fn page(text: &str) -> Result<u32, String> {
    match number(text)? {
        size if (1..=limits::PAGE).contains(&size) => Ok(size),
        _ => Err(format!("must lie between 1 and {}", limits::PAGE)),
    }
}

/// Refuses a key that was given more than once as `flag`: nobody can mean all of its values, and none is better than another.
///
/// # Errors
/// A [`Failure`] that names the key.
pub(super) fn each_once(flag: &str, given: &[(String, String)]) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    match given.iter().find(|(key, _)| !seen.insert(key)) {
        Some((key, _)) => Err(Failure::invalid(format!("{flag} {key} is given twice"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_none_is_told_in_our_own_words() {
        for (text, told) in
            [("high", "not a whole number"), ("1.5", "not a whole number"), ("99999999999", "too large")]
        {
            assert!(number::<i16>(text).unwrap_err().contains(told), "{text}");
        }
        assert_eq!(number::<u32>("-1").unwrap_err(), "must not be negative");
        assert_eq!((number::<i16>("-100"), from_one("7"), page("500")), (Ok(-100), Ok(7), Ok(500)));
        assert!(from_one("0").is_err() && page("501").is_err() && cpus("two").is_err());
    }

    #[test]
    fn a_variable_has_a_name_and_a_wish_a_value() {
        assert_eq!(variable("A_1=x=y").unwrap(), ("A_1".to_owned(), "x=y".to_owned()));
        for wrong in ["1 A=x", "1A=x", "A B=x", "=x", "A"] {
            assert!(variable(wrong).is_err(), "{wrong}");
        }
        assert!(wish("gpu=").unwrap_err().contains("gpu=*") && wish("gpu=*").is_ok());
        assert!(label("a").unwrap_err().contains("KEY=VALUE") && label("a=").is_ok());
    }
}
