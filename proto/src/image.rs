//! References to images: the grammar of the OCI distribution specification, and what engines read into a short one.

use std::fmt;
use std::str::FromStr;

/// The registry of a reference that names none.
pub const DEFAULT_HOST: &str = "docker.io";
/// Bytes of a whole reference.
const REFERENCE: usize = 512;
/// Bytes of the host and the path together.
const NAME: usize = 255;
/// Bytes of a tag.
const TAG: usize = 128;
/// The digests that engines know, and how many hexadecimal digits each has.
const DIGESTS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];

/// A reference in full: `debian` is `docker.io/library/debian:latest`. Two texts that stand for the same image are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageReference {
    /// The registry, in lower case, with its port if it has one.
    pub host: String,
    /// The repository there.
    pub path: String,
    /// The tag; absent only where there is a digest.
    pub tag: Option<String>,
    /// The digest, such as `sha256:…`. It says all; engines pass over a tag beside it.
    pub digest: Option<String>,
}

/// A text that is no [`ImageReference`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not an OCI image reference such as debian:bookworm-slim")]
pub struct ReferenceError;

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text).ok_or(ReferenceError)
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The registry and the rest of a reference without tag and digest, the registry's short forms and the library's written out.
#[must_use]
pub fn host_and_path(name: &str) -> (String, String) {
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => (DEFAULT_HOST, name),
    };
    let host = match host.to_ascii_lowercase() {
        host if host == "index.docker.io" => DEFAULT_HOST.to_owned(),
        host => host,
    };
    let official = host == DEFAULT_HOST && !path.contains('/');
    (host, if official { format!("library/{path}") } else { path.to_owned() })
}

fn read(text: &str) -> Option<ImageReference> {
    // So many digits are the id of an image in an engine, which means something else on every node.
    let is_id = text.len() == 64 && text.bytes().all(is_hex);
    if text.len() > REFERENCE || is_id {
        return None;
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if !digest.is_none_or(is_digest) {
        return None;
    }
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest.get(last..)?.find(':') {
        Some(colon) => (rest.get(..last + colon)?, rest.get(last + colon + 1..)),
        None => (rest, None),
    };
    if !tag.is_none_or(is_tag) {
        return None;
    }
    let (host, path) = host_and_path(name);
    let fits = host.len() + path.len() < NAME && is_host(&host) && path.split('/').all(is_component);
    let tag = tag.or(if digest.is_none() { Some("latest") } else { None }).map(str::to_owned);
    fits.then(|| ImageReference { host, path, tag, digest: digest.map(str::to_owned) })
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, digits)) = text.split_once(':') else { return false };
    DIGESTS.contains(&(algorithm, digits.len())) && digits.bytes().all(is_hex)
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || b".-".contains(&byte))
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.is_empty() || !address.bytes().all(|byte| is_hex(byte) || byte == b':') {
                return false;
            }
            (None, port)
        }
        None => text.split_once(':').map_or((Some(text), ""), |(name, _)| (Some(name), &text[name.len()..])),
    };
    let is_label = |label: &str| {
        let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        edge(label.bytes().next())
            && edge(label.bytes().last())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok_and(|_| !port.starts_with('+')));
    name.is_none_or(|name| name.split('.').all(is_label)) && is_port
}

/// Letters and digits, with a dot, one or two underscores, or dashes between them.
fn is_component(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_between =
        |between: &str| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-');
    text.bytes().next().is_some_and(word)
        && text.bytes().last().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || b"._-".contains(&byte))
        && text.split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit()).all(is_between)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn full(text: &str) -> String {
        text.parse::<ImageReference>().unwrap().to_string()
    }

    #[test]
    fn a_short_reference_is_written_out_as_engines_do() {
        assert_eq!(full("debian"), "docker.io/library/debian:latest");
        assert_eq!(full("docker.io/debian"), "docker.io/library/debian:latest");
        assert_eq!(full("index.docker.io/library/debian:12"), "docker.io/library/debian:12");
        assert_eq!(full("me/tool:1"), "docker.io/me/tool:1");
        assert_eq!(full("localhost/x"), "localhost/x:latest");
        assert_eq!(full("HOST.example:5000/x/y:t"), "host.example:5000/x/y:t");
        assert_eq!(full("[::1]:5000/x"), "[::1]:5000/x:latest");
        assert_eq!(full(&format!("a/b@{DIGEST}")), format!("docker.io/a/b@{DIGEST}"));
        assert_eq!(full(&format!("a/b:1@{DIGEST}")), format!("docker.io/a/b:1@{DIGEST}"));
        let written_out = full("ghcr.io/me/tool");
        assert_eq!(full(&written_out), written_out);
    }

    #[test]
    fn what_no_engine_takes_is_refused() {
        let long_path = format!("{}/x", "a".repeat(255));
        let long_tag = format!("x:{}", "t".repeat(129));
        let id = "ab".repeat(32);
        for bad in [
            "",
            "A",
            "a b",
            "a:",
            ":t",
            "a//b",
            "-a",
            "a-",
            "a@sha256",
            "a:t:u",
            "../x",
            "a\n",
            "a/../b",
            "a..b",
            "a___b",
            "a._b",
            "x/Y",
            "host:/x",
            "host:port/x",
            "host:99999/x",
            "host:+1/x",
            "a.b:1:2/x",
            "-a.b/x",
            "[::1/x",
            "[]:1/x",
            "[zz]/x",
            "x@sha256:xyz",
            "x@sha256:0123",
            "x@md5:0123456789abcdef0123456789abcdef",
            "x@",
            "@x",
            "x:-t",
            "é",
            "http://host/x",
            &long_path,
            &long_tag,
            &id,
        ] {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad}");
        }
        let upper = DIGEST.to_uppercase();
        assert!(format!("x@{upper}").parse::<ImageReference>().is_err());
        for good in ["a--b", "a__b", "a_b.c-d", "a-1.b/x", "x:_t", "0/1:2", "gcr.io/a/b/c/d/e"] {
            assert!(good.parse::<ImageReference>().is_ok(), "{good}");
        }
    }
}
