//! Bearer tokens (RFC 6750): a file's, and a request's. Kept as digests and compared in a time that tells nothing of them.

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Shortest token, characters: with 32 of hexadecimal digits nobody guesses one.
pub const CHARACTERS_MIN: usize = 32;
/// Longest.
pub const CHARACTERS_MAX: usize = 512;
/// Most tokens: one for each program that reads, and their successors.
pub const TOKENS_MAX: usize = 64;

/// Why a file has no tokens. Never shows one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// A short or long one.
    #[error(
        "line {line} has {found} characters: a token has {CHARACTERS_MIN} to {CHARACTERS_MAX} (openssl rand -hex 32 makes one)"
    )]
    Length {
        /// Where.
        line: usize,
        /// What it has.
        found: usize,
    },
    /// Characters that no request can have.
    #[error("line {line} has other characters than A-Z a-z 0-9 - . _ ~ + / =")]
    Characters {
        /// Where.
        line: usize,
    },
    /// Too many.
    #[error("it has more than {TOKENS_MAX} tokens")]
    Many,
    /// Nobody could use it.
    #[error("there is no token in it")]
    Empty,
}

/// Tokens that are taken.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens(Vec<[u8; 32]>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

impl Tokens {
    /// Those of a text: one a line; empty lines and those that begin with `#` count for nothing.
    ///
    /// # Errors
    /// One of them is none, or there is none.
    pub fn read(text: &str) -> Result<Self, TokenError> {
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        let given = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let all = given.map(|(line, token)| digest_of(line, token)).collect::<Result<Vec<_>, _>>()?;
        match all.len() {
            0 => Err(TokenError::Empty),
            1..=TOKENS_MAX => Ok(Self(all)),
            _ => Err(TokenError::Many),
        }
    }

    /// Whether the value of an Authorization header names one of them.
    #[must_use]
    pub fn take(&self, authorization: &str) -> bool {
        let Some((scheme, token)) = authorization.trim().split_once(' ') else { return false };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return false;
        }
        let given: [u8; 32] = Sha256::digest(token.trim()).into();
        // All of them, whichever fits.
        self.0.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&given)).into()
    }
}

fn digest_of(line: usize, token: &str) -> Result<[u8; 32], TokenError> {
    if !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) {
        return Err(TokenError::Characters { line });
    }
    if !(CHARACTERS_MIN..=CHARACTERS_MAX).contains(&token.len()) {
        return Err(TokenError::Length { line, found: token.len() });
    }
    Ok(Sha256::digest(token).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_tokens() {
        let (one, two) = ("a".repeat(32), "Bc3-._~+/=".repeat(4));
        let tokens = Tokens::read(&format!("# Prometheus\n{one}\n\n  {two}  \n")).unwrap();
        for (header, taken) in [
            (format!("Bearer {one}"), true),
            (format!("bearer   {two} "), true),
            (format!("BEARER {two}"), true),
            (format!("Bearer {one}a"), false),
            (format!("Bearer {}", "a".repeat(31)), false),
            (format!("Bearer {one} {two}"), false),
            (format!("Basic {one}"), false),
            (one.clone(), false),
            ("Bearer ".to_owned(), false),
            ("Bearer".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(tokens.take(&header), taken, "{header}");
        }
        assert_eq!(format!("{tokens:?}"), "Tokens(2)");
        assert!(!Tokens::default().take(&format!("Bearer {one}")));
    }

    #[test]
    fn what_is_no_token_is_said_by_its_line_alone() {
        let good = "a".repeat(32);
        for (text, why) in [
            (String::new(), TokenError::Empty),
            ("# nothing\n\n".to_owned(), TokenError::Empty),
            (format!("{good}\n{}", "b".repeat(31)), TokenError::Length { line: 2, found: 31 }),
            ("c".repeat(513), TokenError::Length { line: 1, found: 513 }),
            (format!("#\n\n{good} {good}"), TokenError::Characters { line: 3 }),
            (format!("{good}ü"), TokenError::Characters { line: 1 }),
            (format!("{good}\n").repeat(65), TokenError::Many),
        ] {
            let error = Tokens::read(&text).unwrap_err();
            assert_eq!(error, why);
            assert!(!error.to_string().contains("bbb") && !error.to_string().contains("aaa"));
        }
        Tokens::read(&format!("{good}\n").repeat(64)).unwrap();
    }
}
