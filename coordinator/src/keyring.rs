//! The keys that secrets are encrypted with: AES-256-GCM, under keys that only this process has.
//!
//! The first key encrypts, all of them decrypt: so a new one is put in front of the old, and the old one goes once everything
//! was encrypted anew. A key is known by a short hash of it, which is stored with what it encrypted. Without any key nothing can
//! be encrypted, and everything else works.

use std::fmt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use orca_proto::secret::SecretValue;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use crate::error::StartError;

/// A key, in bytes.
const KEY: usize = 32;
/// Keys that may be given.
const KEYS: usize = 16;
/// Bytes of a key's hash that name it.
const ID: usize = 8;
/// The most that is read of a command's output, in bytes.
const OUTPUT: u64 = 64 << 10;
/// The most that is told of what a command said when it failed, in bytes.
const SAID: u64 = 1_000;
/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(30);

/// The keys; the first encrypts. Clones are handles to the same.
#[derive(Clone, Default)]
pub struct Keyring(Arc<[Key]>);

struct Key {
    id: String,
    cipher: RandomizedNonceKey,
}

/// What a secret's ciphertext is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whose<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) version: i64,
}

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) key_id: String,
    pub(crate) nonce: Vec<u8>,
    pub(crate) ciphertext: Vec<u8>,
}

/// Why a value could not be encrypted or decrypted. Says nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// There is no key at all.
    #[error("there is no key")]
    None,
    /// It is under a key that is not here.
    #[error("the key is not here")]
    Unknown,
    /// It was altered, or belongs to another row.
    #[error("it was tampered with")]
    Altered,
    /// The library did not do it.
    #[error("it could not be encrypted")]
    Failed,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl Keyring {
    /// A new key, as such a text; nothing if the system has no randomness to give.
    #[must_use]
    pub fn new_key() -> Option<Zeroizing<String>> {
        let mut bytes = Zeroizing::new([0; KEY]);
        SystemRandom::new().fill(bytes.as_mut_slice()).ok()?;
        Some(Zeroizing::new(BASE64.encode(bytes.as_slice())))
    }

    /// The keys of a text: one per line, of 32 bytes, in base64 or hexadecimal. Empty lines and those that begin with `#` are
    /// passed over.
    ///
    /// # Errors
    /// Which line is no key; never what is in it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).zip(1..);
        let keys: Vec<Key> = lines
            .filter(|(line, _)| !line.is_empty() && !line.starts_with('#'))
            .map(|(line, number)| {
                key(line).ok_or_else(|| {
                    format!(
                        "line {number} is not a key: 32 random bytes as base64, or as 64 hexadecimal digits"
                    )
                })
            })
            .collect::<Result<_, _>>()?;
        match keys.len() {
            0 => Err("there is no key in it".to_owned()),
            1..=KEYS => Ok(Self(keys.into())),
            more => Err(format!("there are {more} keys in it; the most is {KEYS}")),
        }
    }

    /// The keys that a shell command prints.
    ///
    /// # Errors
    /// [`StartError::Setting`] if it fails, takes too long, or prints something else.
    pub(crate) async fn of_command(setting: &str, command: &str) -> Result<Self, StartError> {
        let failed = |why: String| StartError::Setting(format!("{setting}: {why}"));
        let run = async {
            let mut child = tokio::process::Command::new("/bin/sh")
                .args(["-c", command])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            let (mut printed, mut said) = (Zeroizing::new(String::new()), Vec::new());
            let read_printed = async {
                match stdout {
                    Some(stdout) => stdout.take(OUTPUT).read_to_string(&mut printed).await,
                    None => Ok(0),
                }
            };
            let read_said = async {
                let Some(mut stderr) = stderr else { return Ok(0) };
                (&mut stderr).take(SAID).read_to_end(&mut said).await?;
                // A pipe that nobody reads would hold it up.
                tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await
            };
            tokio::try_join!(read_printed, read_said)?;
            Ok::<_, std::io::Error>((child.wait().await?, printed, said))
        };
        let ran = tokio::time::timeout(COMMAND, run)
            .await
            .map_err(|_| failed(format!("the command took longer than {} s", COMMAND.as_secs())))?;
        let (status, printed, said) =
            ran.map_err(|error| failed(format!("the command cannot be run: {error}")))?;
        if !status.success() {
            let said = String::from_utf8_lossy(&said);
            return Err(failed(format!("the command failed ({status}): {}", said.trim())));
        }
        Self::parse(&printed).map_err(|why| failed(format!("of what the command printed, {why}")))
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The id of the key that encrypts.
    pub(crate) fn newest(&self) -> Option<&str> {
        self.0.first().map(|key| key.id.as_str())
    }

    /// Whether there is a key of this id.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id == id)
    }

    /// Encrypts with the newest key.
    ///
    /// # Errors
    /// [`KeyError::None`], [`KeyError::Failed`].
    pub(crate) fn seal(&self, whose: Whose<'_>, value: &SecretValue) -> Result<Sealed, KeyError> {
        let key = self.0.first().ok_or(KeyError::None)?;
        // Overwritten in place: no plaintext is left in it.
        let mut ciphertext = Vec::with_capacity(value.expose().len() + AES_256_GCM.tag_len());
        ciphertext.extend_from_slice(value.expose().as_bytes());
        let nonce = key
            .cipher
            .seal_in_place_append_tag(Aad::from(whose.bytes()), &mut ciphertext)
            .map_err(|_| KeyError::Failed)?;
        Ok(Sealed { key_id: key.id.clone(), nonce: nonce.as_ref().to_vec(), ciphertext })
    }

    /// Decrypts with whichever key it was encrypted with.
    ///
    /// # Errors
    /// [`KeyError::Unknown`], [`KeyError::Altered`].
    pub(crate) fn open(&self, whose: Whose<'_>, sealed: &Sealed) -> Result<SecretValue, KeyError> {
        let key = self.0.iter().find(|key| key.id == sealed.key_id).ok_or(KeyError::Unknown)?;
        let nonce: [u8; NONCE_LEN] = sealed.nonce.as_slice().try_into().map_err(|_| KeyError::Altered)?;
        let mut bytes = Zeroizing::new(sealed.ciphertext.clone());
        let plain = key
            .cipher
            .open_in_place(Nonce::from(&nonce), Aad::from(whose.bytes()), &mut bytes)
            .map_err(|_| KeyError::Altered)?;
        std::str::from_utf8(plain).map(SecretValue::new).map_err(|_| KeyError::Altered)
    }
}

impl Whose<'_> {
    /// The associated data. Neither part can hold a NUL, so no two rows have the same.
    fn bytes(&self) -> Vec<u8> {
        format!("orca/secret/1\0{}\0{}\0{}", self.namespace, self.name, self.version).into_bytes()
    }
}

fn key(text: &str) -> Option<Key> {
    let bytes = Zeroizing::new(decoded(text)?);
    // What somebody wrote down until there would be a real one.
    let first = bytes.first()?;
    if bytes.len() != KEY || bytes.iter().all(|byte| byte == first) {
        return None;
    }
    let hash = Sha256::new().chain_update(b"orca secrets key\0").chain_update(bytes.as_slice()).finalize();
    let id = hash.iter().take(ID).map(|byte| format!("{byte:02x}")).collect();
    Some(Key { id, cipher: RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok()? })
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    if text.len() == 2 * KEY && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let digit = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        return (0..KEY).map(|place| digit(2 * place)).collect();
    }
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&STANDARD, config).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

    fn whose<'a>(namespace: &'a str, name: &'a str, version: i64) -> Whose<'a> {
        Whose { namespace, name, version }
    }

    #[test]
    fn what_was_encrypted_is_read_only_as_the_row_that_it_was_encrypted_for() {
        let ring = Keyring::parse(OLD).unwrap();
        let value = SecretValue::new("swordfish");
        let sealed = ring.seal(whose("a", "b", 1), &value).unwrap();
        assert!(
            !sealed.ciphertext.windows(5).any(|window| b"swordfish".windows(5).any(|part| part == window))
        );
        assert_eq!(ring.open(whose("a", "b", 1), &sealed), Ok(value.clone()));
        for other in [whose("b", "b", 1), whose("a", "c", 1), whose("a", "b", 2), whose("ab", "", 1)] {
            assert_eq!(ring.open(other, &sealed), Err(KeyError::Altered), "{other:?}");
        }
        let mut altered = sealed.clone();
        altered.ciphertext[0] ^= 1;
        assert_eq!(ring.open(whose("a", "b", 1), &altered), Err(KeyError::Altered));
        assert_ne!(ring.seal(whose("a", "b", 1), &value).unwrap(), sealed, "a nonce was used twice");
    }

    #[test]
    fn the_first_key_encrypts_and_all_of_them_decrypt() {
        let value = SecretValue::new("swordfish");
        let old = Keyring::parse(OLD).unwrap();
        let sealed = old.seal(whose("a", "b", 1), &value).unwrap();
        let both = Keyring::parse(&format!("# the new one\n{NEW}\n\n  {OLD}\n")).unwrap();
        assert_eq!(both.open(whose("a", "b", 1), &sealed), Ok(value.clone()));
        let anew = both.seal(whose("a", "b", 1), &value).unwrap();
        assert_eq!(both.newest(), Some(anew.key_id.as_str()));
        assert_eq!(old.open(whose("a", "b", 1), &anew), Err(KeyError::Unknown));
        assert_eq!(Keyring::parse(NEW).unwrap().open(whose("a", "b", 1), &anew), Ok(value));
    }

    #[test]
    fn base64_and_hexadecimal_are_read_and_what_is_no_key_is_refused_by_its_line_alone() {
        assert_eq!(
            Keyring::parse(NEW).unwrap().newest(),
            Keyring::parse(NEW.trim_end_matches('=')).unwrap().newest()
        );
        let short = &OLD[2..];
        let zeros = "0".repeat(64);
        for wrong in ["hunter2", short, zeros.as_str(), "AAAA", "ÄÄÄÄ"] {
            let why = Keyring::parse(&format!("{OLD}\n{wrong}\n")).unwrap_err();
            assert!(why.starts_with("line 2 ") && !why.contains(wrong), "{why}");
        }
        assert!(Keyring::parse("# none\n\n").is_err());
    }

    #[test]
    fn a_new_key_is_one_and_no_two_are_the_same() {
        let ids = [0, 1]
            .map(|_| Keyring::parse(&Keyring::new_key().unwrap()).unwrap().newest().unwrap().to_owned());
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn debug_shows_no_key() {
        let told = format!("{:?}", Keyring::parse(OLD).unwrap());
        assert!(told.len() < 30 && !told.contains(&OLD[..8]), "{told}");
    }

    #[tokio::test]
    async fn a_command_gives_the_keys_and_its_failure_is_told_with_what_it_said() {
        let ring = Keyring::of_command("X", &format!("echo {NEW}")).await.unwrap();
        assert_eq!(ring.newest(), Keyring::parse(NEW).unwrap().newest());
        let told = |error: StartError| error.to_string();
        let failed = told(Keyring::of_command("X", "echo no access >&2; exit 3").await.unwrap_err());
        assert!(failed.starts_with("X: the command failed") && failed.ends_with("no access"), "{failed}");
        let wrong = told(Keyring::of_command("X", "echo hunter2").await.unwrap_err());
        assert!(wrong.contains("line 1") && !wrong.contains("hunter2"), "{wrong}");
    }
}
