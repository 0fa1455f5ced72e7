//! Names of LTX files: `<min>-<max>.ltx`, both txids as 16 lower-case hex digits.

use crate::types::{Txid, TxidRange};

/// The file name of a range.
pub fn format(range: TxidRange) -> String {
    format!("{range}.ltx")
}

/// The range of a file name; `None` for a stray file, which a folder may hold and nobody reads.
pub fn parse(name: &str) -> Option<TxidRange> {
    let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    TxidRange::new(Txid::from_hex(min)?, Txid::from_hex(max)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_parsed_back() {
        let range = TxidRange::new(Txid::FIRST, Txid::MAX).unwrap();
        assert_eq!(format(range), "0000000000000001-7fffffffffffffff.ltx");
        assert_eq!(parse(&format(range)), Some(range));
    }

    #[test]
    fn strays_have_no_range() {
        for name in [
            "",
            ".ltx",
            "-.ltx",
            "README",
            "lock.json",
            "0000000000000001-0000000000000002.ltx.tmp",
            "0000000000000001-0000000000000002.LTX",
            "000000000000000A-000000000000000B.ltx",
            "0000000000000002-0000000000000001.ltx",
            "0000000000000000-0000000000000001.ltx",
            "000000000000001-0000000000000002.ltx",
            "0000000000000001-0000000000000002",
            "0000000000000001-0000000000000002-0000000000000003.ltx",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
