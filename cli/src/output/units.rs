//! Sizes: MiB to text as `--units` asks, and text to MiB (`1G`, `512`).

/// How sizes are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Units {
    /// The unit that fits, with its letter.
    H,
    /// MiB without a letter.
    M,
    /// GiB without a letter.
    G,
    /// TiB without a letter.
    T,
}

/// `mib` in these units: whole MiB, or GiB and TiB with one digit after the point.
#[must_use]
pub fn shown(mib: f64, units: Units) -> String {
    let human = units == Units::H;
    let letter = |l: &'static str| if human { l } else { "" };
    if units == Units::M || (human && mib < 1024.0) {
        format!("{:.0}{}", mib.round_ties_even(), letter("M"))
    } else if units == Units::G || (human && mib < 1024.0 * 1024.0) {
        format!("{:.1}{}", mib / 1024.0, letter("G"))
    } else {
        format!("{:.1}{}", mib / 1024.0 / 1024.0, letter("T"))
    }
}

/// The MiB that a size given by a person means: a number with an optional unit (`m`, `g`, `t`, also
/// `mb`, `MiB`, ...), MiB when there is none; rounded up to a multiple of 4 MiB, as Ganeti does.
///
/// # Errors
/// What is wrong with it, for people.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let bad =
        || format!("'{text}' is no size; give a number of MiB, or one with a unit such as 512M or 1.5G");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1.0,
        "g" | "gb" | "gib" => 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0,
        _ => return Err(bad()),
    };
    let mib = (number * factor).ceil();
    if !(0.0..1e15).contains(&mib) {
        return Err(bad());
    }
    Ok((mib as u64).next_multiple_of(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_asked() {
        for (mib, units, want) in [
            (0.0, Units::H, "0M"),
            (1023.0, Units::H, "1023M"),
            (1024.0, Units::H, "1.0G"),
            (258_020.0, Units::H, "252.0G"),
            (1024.0 * 1024.0, Units::H, "1.0T"),
            (1536.0, Units::M, "1536"),
            (1536.0, Units::G, "1.5"),
            (1024.0 * 512.0, Units::T, "0.5"),
        ] {
            assert_eq!(shown(mib, units), want, "{mib} {units:?}");
        }
    }

    #[test]
    fn sizes_are_read_in_every_unit() {
        for (text, want) in
            [("512", 512), ("1G", 1024), ("1.5g", 1536), ("2T", 2 << 20), ("3", 4), ("4 MiB", 4)]
        {
            assert_eq!(parse_mib(text), Ok(want), "{text}");
        }
        for bad in ["", "G", "1X", "-1", "1.2.3", "nan", "inf", "99999999999999999999T"] {
            assert!(parse_mib(bad).is_err(), "{bad}");
        }
    }
}
