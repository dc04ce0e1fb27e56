//! A text that is never shown: passwords and keys on their way from the environment or a file to the one client that sends them.

use std::path::Path;

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

/// A password or a key. `Debug` does not show it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
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
    fn a_file_loses_its_line_break_and_must_not_be_empty() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), " pass word \r\n").unwrap();
        assert_eq!(Secret::read(file.path()).unwrap().expose(), " pass word ");
        std::fs::write(file.path(), "\n").unwrap();
        assert!(Secret::read(file.path()).unwrap_err().contains("is empty"));
        assert!(Secret::read(Path::new("no/such/file")).unwrap_err().contains("no/such/file"));
    }
}
