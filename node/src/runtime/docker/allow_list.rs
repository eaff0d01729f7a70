//! Which images a node runs: patterns over references in full.

use orca_proto::image::{ImageReference, host_and_path};

/// Patterns of `--allow-image`; without any, every image is allowed.
#[derive(Debug, Default)]
pub(super) struct AllowList(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    host: String,
    path: String,
    version: Version,
}

#[derive(Debug)]
enum Version {
    /// Any tag and any digest.
    Any,
    /// A tag that looks so, and no digest: beside a digest a tag says nothing.
    Tag(String),
    /// This very digest.
    Digest(String),
}

impl AllowList {
    /// Reads patterns: references in which `*` stands for any text, within the registry, the repository and the tag each.
    /// A repository that ends with `*` and names no tag, and the tag `*`, take every tag and digest.
    ///
    /// # Errors
    /// The pattern that is none.
    pub(super) fn read(patterns: &[String]) -> Result<Self, String> {
        patterns
            .iter()
            .map(|text| pattern(text).ok_or_else(|| text.clone()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether a node with this list may run the image.
    pub(super) fn allows(&self, image: &ImageReference) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.takes(image))
    }
}

fn pattern(text: &str) -> Option<Pattern> {
    if text == "*" {
        return Some(Pattern { host: "*".into(), path: "*".into(), version: Version::Any });
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@*[]".contains(&byte);
    if text.is_empty() || !text.bytes().all(known) {
        return None;
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest.get(last..)?.split_once(':') {
        Some((path, tag)) => (rest.get(..last + path.len())?, Some(tag)),
        None => (rest, None),
    };
    let version = match (digest, tag) {
        (Some(digest), None) => Version::Digest(digest.to_owned()),
        (Some(_), Some(_)) => return None,
        (None, Some("*")) => Version::Any,
        (None, Some(tag)) => Version::Tag(tag.to_owned()),
        (None, None) if name.ends_with('*') => Version::Any,
        (None, None) => Version::Tag("latest".to_owned()),
    };
    let (host, path) = match name {
        // All of it, and not the library alone.
        "docker.io/*" | "index.docker.io/*" => ("docker.io".to_owned(), "*".to_owned()),
        name => host_and_path(name),
    };
    (!path.is_empty() && !path.ends_with('/')).then_some(Pattern { host, path, version })
}

impl Pattern {
    fn takes(&self, image: &ImageReference) -> bool {
        let version = match &self.version {
            Version::Any => true,
            Version::Tag(tag) => {
                image.digest.is_none() && image.tag.as_deref().is_some_and(|text| looks_like(text, tag))
            }
            Version::Digest(digest) => image.digest.as_ref() == Some(digest),
        };
        version && looks_like(&image.host, &self.host) && looks_like(&image.path, &self.path)
    }
}

/// Whether `text` is `pattern`, in which each `*` stands for any text.
fn looks_like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn allows(pattern: &str, image: &str) -> bool {
        AllowList::read(&[pattern.to_owned()]).unwrap().allows(&image.parse().unwrap())
    }

    #[test]
    fn a_pattern_takes_what_it_names_and_nothing_beside_it() {
        let pinned = |name: &str| format!("{name}@{DIGEST}");
        for (pattern, image) in [
            ("*", "anything.example/at/all:1"),
            ("debian", "docker.io/library/debian:latest"),
            ("debian:*", "debian:bookworm-slim"),
            ("debian:*", &pinned("debian:12")),
            ("debian:bookworm*", "debian:bookworm-slim"),
            ("docker.io/library/debian:12", "debian:12"),
            ("docker.io/*", "me/tool:1"),
            ("docker.io/*", "debian"),
            ("me/*", "me/tool:1"),
            ("registry.example.com/team/*", "registry.example.com/team/a/b:7"),
            ("registry.example.com/team/*", &pinned("REGISTRY.example.com/team/a")),
            ("*.example.com/*", "eu.example.com/x"),
            ("127.0.0.1:5000/*", "127.0.0.1:5000/x:1"),
            (&pinned("me/tool"), &pinned("me/tool:1")),
        ] {
            assert!(allows(pattern, image), "{pattern} {image}");
        }
        for (pattern, image) in [
            ("debian", "debian:12"),
            ("debian:12", &pinned("debian:12")),
            ("debian:*", "debian-evil:1"),
            ("debian:*", "me/debian:1"),
            ("debian:*", "evil.example/library/debian:1"),
            ("registry.example.com/team/*", "registry.example.com.evil.example/team/x"),
            ("registry.example.com/team/*", "registry.example.com/teams/x"),
            ("registry.example.com/team/*", "me/team/x"),
            ("*.example.com/*", "evil.example/a.example.com/x"),
            ("127.0.0.1:5000/*", "127.0.0.1:50001/x:1"),
            (&pinned("me/tool"), "me/tool"),
        ] {
            assert!(!allows(pattern, image), "{pattern} {image}");
        }
        assert!(AllowList::default().allows(&"x".parse().unwrap()));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["", "a b", "a/", "host.example/", "x:1@sha256:0", "a?c"] {
            assert!(AllowList::read(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
