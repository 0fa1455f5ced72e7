//! Replicas of Litestream 0.3: one frame, and a snapshot with two WAL segments.

use std::io::{Cursor, Write};

use super::{MIB, Target, check_error, check_names, codes, database, join, parts, unmended};
use crate::catalog::Target as Until;
use crate::legacy::{self, frame::Frame};
use crate::replica::FileReplica;
use crate::testing::Folder;
use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};

pub const FRAME: Target = Target {
    name: "frame",
    samples: || {
        vec![encode(b""), encode(b"abc"), encode(&vec![5; 100_000]), encode(&database::wal_sample(6))]
    },
    words: &["\x04\x22\x4d\x18", "age-encryption.org/v1"],
    mend: unmended,
    run: frame,
    memory_max: 6 * MIB,
    is_parts: false,
};

/// The parts are what the frames hold.
pub const RESTORE: Target = Target {
    name: "legacy",
    samples: || vec![join(&[database::file(3), database::wal_sample(4), database::wal_sample(2)])],
    mend: |bytes| {
        let mended = parts(bytes).into_iter().enumerate();
        join(&mended.map(|(at, part)| if at == 0 { part } else { codes::wal(&part) }).collect::<Vec<_>>())
    },
    run: restore,
    memory_max: 24 * MIB,
    is_parts: true,
    ..FRAME
};

fn encode(content: &[u8]) -> Vec<u8> {
    let info = FrameInfo::new().content_checksum(true).block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn frame(bytes: &[u8]) {
    let mut frame = match Frame::new(Box::new(Cursor::new(bytes.to_vec())), "hostile.lz4") {
        Ok(frame) => frame,
        Err(error) => return check_names(&error, "hostile.lz4"),
    };
    let (mut part, mut length) = (vec![0; 4096], 0);
    loop {
        match frame.fill(&mut part) {
            Ok(count) if count == part.len() => length += count,
            Ok(_) => return,
            Err(error) => return check_names(&error, "hostile.lz4"),
        }
        // A byte of LZ4 gives 255.
        assert!(length <= bytes.len() * 256 + 4096, "more comes out than can be in it");
    }
}

fn restore(bytes: &[u8]) {
    const BELOW: &str = "r/generations/0123456789abcdef";
    let folder = Folder::new();
    let names =
        ["snapshots/00000003.snapshot.lz4", "wal/00000003_00000000.wal.lz4", "wal/00000004_00000000.wal.lz4"];
    for (name, part) in names.iter().zip(parts(bytes)) {
        let path = folder.path().join(BELOW).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, encode(&part)).unwrap();
    }
    let replica = FileReplica::at(folder.path().join("r"));
    let output = folder.path().join("out.db");
    let restored =
        legacy::find(&replica, Until::Newest).map(|found| found.map(|f| legacy::restore(&f, &output)));
    match restored {
        Ok(Some(Ok(restored))) => {
            assert_eq!(std::fs::metadata(&output).unwrap().len(), restored.bytes);
        }
        Ok(Some(Err(error))) => {
            check_names(&error, ".lz4");
            assert!(!output.exists());
        }
        Ok(None) => {}
        Err(error) => check_error(&error),
    }
}
