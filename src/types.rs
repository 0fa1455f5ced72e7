//! The nouns every room shares: page numbers and sizes, txids, checksums, positions, levels.
//!
//! Each is constructed through a check and carries the proof in its type; `Option<Txid>` says
//! "none", zero does not. Sources: SQLite file format 1.3.2 (page size), LTX v3 (the rest).

use std::fmt;
use std::num::NonZeroU64;

/// Number of a database page, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pgno(u32);

impl Pgno {
    pub const FIRST: Pgno = Pgno(1);

    /// `None` for 0, which is no page.
    pub const fn new(pgno: u32) -> Option<Pgno> {
        if pgno == 0 { None } else { Some(Pgno(pgno)) }
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    /// Byte offset of this page in a database file.
    pub const fn offset(self, page_size: PageSize) -> u64 {
        (self.0 as u64 - 1) * page_size.get() as u64
    }
}

impl fmt::Display for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Size of a database page in bytes: a power of two, 512 to 65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageSize(u32);

impl PageSize {
    pub const MAX: PageSize = PageSize(65536);

    /// `None` unless `bytes` is a power of two from 512 to 65536.
    pub const fn new(bytes: u32) -> Option<PageSize> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 65536 { Some(PageSize(bytes)) } else { None }
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// The page that holds SQLite's lock bytes at 1 GiB. It is never stored and never checksummed.
    pub const fn lock_pgno(self) -> Pgno {
        Pgno(0x4000_0000 / self.0 + 1)
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Transaction id: counts captured commit groups from 1 without gaps. Shown as 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(u64);

impl Txid {
    pub const FIRST: Txid = Txid(1);
    /// Largest txid that is also an SQL integer.
    pub const MAX: Txid = Txid(i64::MAX as u64);

    /// `None` for 0 and for what an SQL integer cannot hold.
    pub const fn new(txid: u64) -> Option<Txid> {
        if txid == 0 || txid > i64::MAX as u64 { None } else { Some(Txid(txid)) }
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// # Panics
    /// At the end of the number space, which takes 292,000 years of one commit group a microsecond.
    pub fn next(self) -> Txid {
        Txid::new(self.0 + 1).expect("BUG: txid space exhausted")
    }

    /// The txid before this one; `None` before the first.
    pub fn previous(self) -> Option<Txid> {
        Txid::new(self.0 - 1)
    }

    /// Exactly 16 hex digits, either case; nothing else.
    pub fn from_hex(text: &str) -> Option<Txid> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().and_then(Txid::new)
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Inclusive range of txids that one file covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxidRange {
    pub min: Txid,
    pub max: Txid,
}

impl TxidRange {
    /// `None` when `min > max`.
    pub fn new(min: Txid, max: Txid) -> Option<TxidRange> {
        if min <= max { Some(TxidRange { min, max }) } else { None }
    }

    pub const fn one(txid: Txid) -> TxidRange {
        TxidRange { min: txid, max: txid }
    }
}

impl fmt::Display for TxidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// Checksum of a file (LTX v3: CRC-64/GO-ISO), of a page (the same, mixed) or of a whole database, with the top bit always set. A
/// database's is the XOR of its pages', the lock-byte page left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Checksum(u64);

impl Checksum {
    const FLAG: u64 = 1 << 63;
    /// Of a database without pages.
    pub const EMPTY: Checksum = Checksum(Checksum::FLAG);

    /// The flag is set whatever the top bit of `value`.
    pub const fn from_crc(value: u64) -> Checksum {
        Checksum(value | Checksum::FLAG)
    }

    /// `None` when the top bit is not set: such a value was never a checksum.
    pub const fn from_wire(value: u64) -> Option<Checksum> {
        if value & Checksum::FLAG != 0 { Some(Checksum(value)) } else { None }
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// Adds a page's checksum to a database's, or takes it out again.
    #[must_use]
    pub const fn toggle(self, page: Checksum) -> Checksum {
        Checksum((self.0 ^ page.0) | Checksum::FLAG)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A point of the history: the state of the database after `txid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    pub txid: Txid,
    pub checksum: Checksum,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.txid, self.checksum)
    }
}

/// Level of a file in the replica: 0 as captured, 1..8 merged, 9 snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    pub const CAPTURED: Level = Level(0);
    pub const SNAPSHOT: Level = Level(9);

    /// `None` past 9.
    pub const fn new(level: u8) -> Option<Level> {
        if level <= 9 { Some(Level(level)) } else { None }
    }

    pub const fn get(self) -> u8 {
        self.0
    }

    /// Every level, 0 first.
    pub fn all() -> impl DoubleEndedIterator<Item = Level> {
        (0..=9).map(Level)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since 1970-01-01 UTC, as LTX headers carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Reads RFC 3339 with any offset; what is finer than a millisecond is cut off.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let (date, rest) = text.split_at_checked(10)?;
        let time = rest.strip_prefix(['T', 't', ' '])?;
        let zone_at = time.find(['Z', 'z', '+', '-'])?;
        let (time, zone) = time.split_at(zone_at);
        let minutes = match zone {
            "Z" | "z" => 0,
            _ => {
                let [hours, minutes] = numbers(&zone[1..], ':', [2, 2])?;
                let sign = if zone.starts_with('-') { -1 } else { 1 };
                (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))?
            }
        };
        let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
        if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let ms: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
        let valid = (1..=12).contains(&month)
            && (1..=days_in(month, year)).contains(&day)
            && hour < 24
            && minute < 60
            // A leap second is the last moment of its minute.
            && second <= 60;
        // Days since 1 March of year 0, as below.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let day = 365 * year + year.div_euclid(4) - year.div_euclid(100)
            + year.div_euclid(400)
            + (153 * month + 2) / 5
            + day
            - 1;
        let seconds = (day - 719_468) * 86_400 + hour * 3600 + (minute - minutes) * 60 + second.min(59);
        valid.then_some(Timestamp(seconds * 1000 + ms))
    }
}

fn days_in(month: i64, year: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Numbers of so many digits each, with a separator between them.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut found = [0; N];
    let mut parts = text.split(separator);
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits)?;
        *number = part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(found)
}

/// RFC 3339 in UTC with milliseconds: `2026-11-21T06:47:00.093Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        // Days since 1 March of year 0, in eras of 400 years, so that the leap day ends a year.
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, after_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + after_year;
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
    }
}

/// Counts the holders of a replica's lease, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(NonZeroU64);

impl Epoch {
    pub const FIRST: Epoch = Epoch(NonZeroU64::MIN);

    /// `None` for 0 and for what is no signed number of 64 bits, which others keep it as.
    pub fn new(n: u64) -> Option<Epoch> {
        NonZeroU64::new(n).filter(|n| i64::try_from(n.get()).is_ok()).map(Epoch)
    }

    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// `None` behind the last one.
    pub fn next(self) -> Option<Epoch> {
        Epoch::new(self.get() + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What tells one object of a replica from a later one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    File {
        device: u64,
        inode: u64,
        /// Change time; a file that was removed and made again has another.
        changed_ns: i128,
        modified_ns: i128,
    },
    Stored {
        etag: Etag,
        /// By the store's clock, in whole seconds; the answer to a put does not tell it.
        modified: Option<Timestamp>,
        /// The store's clock when it took the object, or listed it; a look at one name has no say in what is newest.
        told_at: Option<Timestamp>,
    },
}

impl Identity {
    /// Whether it is that of the same object, as far as both tell.
    pub fn same(&self, other: &Identity) -> bool {
        match (self, other) {
            (
                Identity::Stored { etag, modified, .. },
                Identity::Stored { etag: theirs, modified: then, .. },
            ) => etag == theirs && (modified == then || modified.is_none() || then.is_none()),
            _ => self == other,
        }
    }
}

/// The entity tag of an object, as the store writes it, quotes included.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Etag {
    bytes: [u8; Etag::BYTES_MAX],
    len: u8,
}

impl Etag {
    /// More than any store is known to use.
    pub const BYTES_MAX: usize = 80;

    /// `None` for one that is empty, too long, or no visible ASCII.
    pub fn new(text: &str) -> Option<Etag> {
        let valid = (1..=Etag::BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        let mut bytes = [0; Etag::BYTES_MAX];
        bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        valid.then_some(Etag { bytes, len: text.len() as u8 })
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("BUG: an ETag is ASCII")
    }
}

impl fmt::Debug for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An LTX file as a replica lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileInfo {
    pub level: Level,
    pub range: TxidRange,
    /// Bytes.
    pub size: u64,
    pub created_at: Timestamp,
    pub identity: Identity,
}

impl FileInfo {
    /// Whether this is still the very object of an earlier look, and not one made anew with its name.
    pub fn same_object(&self, other: &FileInfo) -> bool {
        (self.level, self.range, self.size) == (other.level, other.range, other.size)
            && self.identity.same(&other.identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_is_read_as_it_is_written_and_with_any_offset() {
        for ms in [0, 1_795_243_592_377, 951_782_400_000, -1, 253_402_300_799_999] {
            assert_eq!(Timestamp::parse(&Timestamp(ms).to_string()), Some(Timestamp(ms)), "{ms}");
        }
        for (text, same) in [
            ("2026-11-21T06:58:22.61Z", "2026-11-21T06:58:22.610Z"),
            ("2026-11-21T06:58:22.123456789Z", "2026-11-21T06:58:22.123Z"),
            ("2026-11-21t06:58:22+05:30", "2026-11-21T01:28:22.000Z"),
            ("2026-11-21 23:30:00-01:00", "2026-11-22T00:30:00.000Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), same);
        }
        for text in [
            "",
            "2026-11-21",
            "2026-11-21T06:58Z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-11-21T06:58:22",
            "2026-11-21T06:58:22.Z",
            "+026-11-21T06:58:22Z",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn stored_object_is_the_same_by_etag_and_by_time_where_it_is_known() {
        let stored = |etag, at: Option<i64>| Identity::Stored {
            etag: Etag::new(etag).unwrap(),
            modified: at.map(Timestamp),
            told_at: None,
        };
        assert!(stored("\"a\"", Some(5)).same(&stored("\"a\"", None)));
        assert!(!stored("\"a\"", Some(5)).same(&stored("\"a\"", Some(6))), "made anew with the same bytes");
        assert!(!stored("\"a\"", None).same(&stored("\"b\"", None)));
        assert_eq!((Etag::new(""), Etag::new("a b"), Etag::new(&"x".repeat(81))), (None, None, None));
    }

    #[test]
    fn page_size_takes_powers_of_two_from_512_to_65536() {
        for (bytes, valid) in
            [(0, false), (256, false), (512, true), (513, false), (65536, true), (131072, false)]
        {
            assert_eq!(PageSize::new(bytes).is_some(), valid, "{bytes}");
        }
    }

    #[test]
    fn lock_page_follows_page_size() {
        for (bytes, pgno) in [(512, 2097153), (4096, 262145), (65536, 16385)] {
            assert_eq!(PageSize::new(bytes).unwrap().lock_pgno().get(), pgno);
        }
    }

    #[test]
    fn txid_hex_is_sixteen_digits_and_not_zero() {
        assert_eq!(Txid::from_hex("000000000000000b"), Txid::new(11));
        for text in [
            "b",
            "0000000000000000",
            "00000000000000000b",
            "000000000000000g",
            "+00000000000000b",
            "ffffffffffffffff",
        ] {
            assert_eq!(Txid::from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn toggling_a_page_twice_is_no_change() {
        let page = Checksum::from_crc(0x1234);
        assert_eq!(Checksum::EMPTY.toggle(page).toggle(page), Checksum::EMPTY);
        assert_eq!(Checksum::from_wire(5), None);
    }

    #[test]
    fn timestamp_is_shown_as_utc() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp(ms).to_string(), text);
        }
    }
}
