//! The one place that names bincode: variable-length integers, a size limit, no trailing bytes.
//! JSON documents travel as [`Json`], since bincode can't carry `serde_json::Value`.

use bincode::Options;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

/// Largest frame, and hence largest body, in bytes (DESIGN §4).
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Bytes that are no value of the wanted type, or a value too large to send.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Encoding failed, in practice because the value is over [`FRAME_BYTES_MAX`].
    #[error("can't encode {what}: {why}")]
    Encode {
        /// Type name.
        what: &'static str,
        /// bincode's or serde_json's word for it.
        why: String,
    },
    /// Decoding failed.
    #[error("can't decode {what}: {why}")]
    Decode {
        /// Type name.
        what: &'static str,
        /// bincode's or serde_json's word for it.
        why: String,
    },
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(FRAME_BYTES_MAX as u64)
}

/// The bytes of `value`.
///
/// # Errors
/// When they would be more than [`FRAME_BYTES_MAX`].
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    options()
        .serialize(value)
        .map_err(|why| CodecError::Encode { what: std::any::type_name::<T>(), why: why.to_string() })
}

/// The value in `bytes`, which must hold nothing else.
///
/// # Errors
/// When they don't.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    options()
        .deserialize(bytes)
        .map_err(|why| CodecError::Decode { what: std::any::type_name::<T>(), why: why.to_string() })
}

/// For `#[serde(with = "raw")]` on a `Vec<u8>`: the same wire bytes as without, moved as one piece instead of
/// byte by byte.
pub mod raw {
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;
    use std::fmt;

    /// Writes the length and the bytes.
    ///
    /// # Errors
    /// As the serializer.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    /// Reads them back.
    ///
    /// # Errors
    /// As the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_byte_buf(Bytes)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }
}

/// A `T` as JSON text inside a bincode body.
#[derive(Serialize, Deserialize)]
#[serde(transparent, bound = "")]
pub struct Json<T> {
    text: String,
    #[serde(skip)]
    of: PhantomData<fn() -> T>,
}

// By hand: derives would ask `T` for what only its text needs.
impl<T> Clone for Json<T> {
    fn clone(&self) -> Self {
        Self { text: self.text.clone(), of: PhantomData }
    }
}

impl<T> PartialEq for Json<T> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<T> Eq for Json<T> {}

impl<T> std::fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Json({} bytes)", self.text.len())
    }
}

impl<T: Serialize + DeserializeOwned> Json<T> {
    /// Writes `value` as JSON.
    ///
    /// # Errors
    /// When it has no JSON form (a map with keys that are no strings).
    pub fn of(value: &T) -> Result<Self, CodecError> {
        let text = serde_json::to_string(value)
            .map_err(|why| CodecError::Encode { what: std::any::type_name::<T>(), why: why.to_string() })?;
        Ok(Self { text, of: PhantomData })
    }

    /// Reads the value.
    ///
    /// # Errors
    /// When the text is not the JSON of a `T`.
    pub fn read(&self) -> Result<T, CodecError> {
        serde_json::from_str(&self.text)
            .map_err(|why| CodecError::Decode { what: std::any::type_name::<T>(), why: why.to_string() })
    }
}

impl<T> Json<T> {
    /// The JSON text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes `text` unseen; [`Json::read`] will tell whether it is a `T`.
    #[must_use]
    pub fn raw(text: String) -> Self {
        Self { text, of: PhantomData }
    }
}
