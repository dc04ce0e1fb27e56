//! A text that is never shown: passwords and keys on their way from the environment or a file to the one client that sends them.

use std::path::Path;

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A password or a key. `Debug` does not show it.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(transparent)]
pub struct Secret(#[schemars(with = "String")] SecretString);

impl Secret {
    /// The text, for the client that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Reads it from a file, without the line break at its end.
    ///
    /// # Errors
    /// A message that names the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(text.into()) }
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

/// For the overlay of the environment over the configuration file, which never leaves the process.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

/// Text alone. What is something else is refused without being repeated, which serde would do.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text)
    }
}

struct Text;

fn no_text<T, E: Error>() -> Result<T, E> {
    Err(E::custom("a secret must be text: put it in quotes"))
}

impl<'de> Visitor<'de> for Text {
    type Value = Secret;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(text.into())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Secret, E> {
        no_text()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        no_text()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
        no_text()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
        no_text()
    }

    fn visit_unit<E: Error>(self) -> Result<Secret, E> {
        no_text()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Secret, A::Error> {
        no_text()
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Secret, A::Error> {
        no_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_shown() {
        let secret = Secret::from("PLANTED");
        assert!(!format!("{secret:?}").contains("PLANTED"));
        assert_eq!(secret.expose(), "PLANTED");
    }

    #[test]
    fn what_is_no_text_is_refused_and_not_repeated() {
        for json in ["8674665223", "-8674665223", "1.5", "true", "null", "[\"PLANTED\"]", "{\"PLANTED\": 1}"] {
            let error = serde_json::from_str::<Secret>(json).unwrap_err().to_string();
            assert!(error.contains("put it in quotes"), "{error}");
            assert!(!error.contains("PLANTED") && !error.contains("8674665223"), "{error}");
        }
        assert_eq!(serde_json::from_str::<Secret>("\"8674665223\"").unwrap().expose(), "8674665223");
    }

    #[test]
    fn a_file_loses_its_line_break_and_must_not_be_empty() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), " pass word \r\n").unwrap();
        assert_eq!(Secret::read(file.path()).unwrap().expose(), " pass word ");
        std::fs::write(file.path(), "\n").unwrap();
        assert!(Secret::read(file.path()).unwrap_err().contains("is empty"));
        assert!(Secret::read(Path::new("no/such/file")).unwrap_err().contains("no/such/file"));
    }
}
