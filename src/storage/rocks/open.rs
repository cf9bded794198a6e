//! Opening a data directory: created durably, locked, recovered, and its errors told apart.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::DBRecoveryMode::{self, PointInTime, TolerateCorruptedTailRecords};
use rocksdb::{BoundColumnFamily, ColumnFamilyDescriptor, DB, ErrorKind};
use self_cell::self_cell;

use crate::storage::{EngineError, OpenError, Space};

use super::options::{self, RocksOptions, Shared};

/// How much of the log a start could replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// All of it. At most a commit that was cut off in the middle, hence never acknowledged, is
    /// gone.
    Whole,
    /// Up to damage in the log, at this start or at an earlier one that was not yet dealt with.
    /// Commits behind it are lost, acknowledged ones perhaps among them: the vnodes of this
    /// directory are incomplete.
    CutShort(EngineError),
}

/// A file whose presence, and text, say that a log was cut short. Written before RocksDB cuts: its
/// next start finds nothing wrong any more.
const CUT_SHORT_FILE: &str = "CUT_SHORT";

/// The handles of the column families, in the order of [`Space::ALL`].
pub(super) struct Families<'a>([Arc<BoundColumnFamily<'a>>; Space::ALL.len()]);

self_cell! {
    /// An open database with the handles of its column families, looked up once.
    pub(super) struct Database {
        owner: DB,
        #[covariant]
        dependent: Families,
    }
}

impl Database {
    pub(super) fn db(&self) -> &DB {
        self.borrow_owner()
    }

    pub(super) fn family(&self, space: Space) -> &Arc<BoundColumnFamily<'_>> {
        &self.borrow_dependent().0[space as usize]
    }
}

/// Opens the directory, creating it where it is missing.
///
/// Two modes of recovery are tried in turn. `TolerateCorruptedTailRecords` drops an incomplete
/// last record, which a crash in the middle of a write leaves and which was never acknowledged,
/// and refuses any other damage. It alone would leave a node down after a power cut that garbled
/// unsynced pages. `PointInTime` alone would silently drop every acknowledged commit behind a
/// damaged byte. So the second one opens what the first refused, and says that it had to. What
/// neither can tell from a torn write is a damaged length within the log's last 32 KiB.
pub(super) fn open(
    dir: &Path,
    options: &RocksOptions,
    shared: &Shared,
) -> Result<(Database, Recovery), OpenError> {
    create_durably(dir).map_err(|error| io_error(dir, &error))?;
    refuse_headless(dir)?;
    let database = match open_with(dir, options, shared, TolerateCorruptedTailRecords) {
        Err(error) if error.kind() == ErrorKind::Corruption => {
            note_cut(dir, &error).map_err(|error| io_error(dir, &error))?;
            open_with(dir, options, shared, PointInTime)
        }
        opened => opened,
    };
    let database = database.map_err(|error| open_error(dir, &error))?;
    sync_dir(dir).map_err(|error| io_error(dir, &error))?;
    let recovery = noted_cut(dir).map_err(|error| io_error(dir, &error))?;
    Ok((database, recovery))
}

fn note_cut(dir: &Path, cause: &rocksdb::Error) -> io::Result<()> {
    let mut file = File::create(dir.join(CUT_SHORT_FILE))?;
    file.write_all(cause.as_ref().as_bytes())?;
    file.sync_all()?;
    sync_dir(dir)
}

fn noted_cut(dir: &Path) -> io::Result<Recovery> {
    match fs::read_to_string(dir.join(CUT_SHORT_FILE)) {
        Ok(cause) => Ok(Recovery::CutShort(EngineError::new(&cause))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Recovery::Whole),
        Err(error) => Err(error),
    }
}

/// Ends what [`Recovery::CutShort`] reports.
pub(super) fn forget_cut(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(CUT_SHORT_FILE)) {
        Ok(()) => sync_dir(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes RocksDB's files. `CURRENT` goes last: what was begun is not taken for an empty store.
pub(super) fn destroy(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut last = None;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let Some(name) = name.filter(|name| is_of_a_store(name)) else { continue };
        if name == "CURRENT" {
            last = Some(path);
        } else {
            fs::remove_file(path)?;
        }
    }
    last.map_or(Ok(()), fs::remove_file)?;
    sync_dir(dir)
}

fn is_of_a_store(name: &str) -> bool {
    let ends = [".sst", ".log", ".dbtmp", ".blob"];
    let begins = ["MANIFEST-", "OPTIONS-", "LOG"];
    matches!(name, "CURRENT" | "IDENTITY" | CUT_SHORT_FILE)
        || ends.iter().any(|end| name.ends_with(end))
        || begins.iter().any(|begin| name.starts_with(begin))
}

fn open_with(
    dir: &Path,
    options: &RocksOptions,
    shared: &Shared,
    recovery: DBRecoveryMode,
) -> Result<Database, rocksdb::Error> {
    let families = Space::ALL.map(|space| {
        ColumnFamilyDescriptor::new(space.name(), options::family(space, options, shared))
    });
    let database = options::database(options, shared, recovery);
    let db = DB::open_cf_descriptors(&database, dir, families)?;
    Ok(Database::new(db, |db| {
        Families(Space::ALL.map(|space| {
            db.cf_handle(space.name()).expect("opened with a column family for each space")
        }))
    }))
}

/// RocksDB takes a directory without `CURRENT` for an empty one and starts afresh beside the data.
fn refuse_headless(dir: &Path) -> Result<(), OpenError> {
    if dir.join("CURRENT").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(|error| io_error(dir, &error))? {
        let path = entry.map_err(|error| io_error(dir, &error))?.path();
        if path.extension().is_some_and(|extension| extension == "sst" || extension == "log") {
            let cause = EngineError::new(&format!("CURRENT is missing beside {}", path.display()));
            return Err(OpenError::Corrupt { dir: dir.into(), cause });
        }
    }
    Ok(())
}

/// RocksDB reports through texts; the ones matched here are held by tests.
fn open_error(dir: &Path, error: &rocksdb::Error) -> OpenError {
    let (dir, cause) = (PathBuf::from(dir), EngineError::new(error));
    let text: &str = error.as_ref();
    match error.kind() {
        ErrorKind::IOError
            if text.contains("lock hold by current process")
                || text.contains("While lock file") =>
        {
            OpenError::Locked { dir }
        }
        ErrorKind::NotSupported => OpenError::Newer { dir, cause },
        ErrorKind::InvalidArgument if text.contains("Column families not opened") => {
            OpenError::Newer { dir, cause }
        }
        ErrorKind::Corruption | ErrorKind::InvalidArgument => OpenError::Corrupt { dir, cause },
        _ => OpenError::Io { dir, cause },
    }
}

fn io_error(dir: &Path, error: &io::Error) -> OpenError {
    OpenError::Io { dir: dir.into(), cause: EngineError::new(error) }
}

/// Creates the directory and what is missing above it. A new folder's name is durable only once
/// the folder above it is fsynced.
fn create_durably(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|path| is_missing(path)).collect();
    fs::create_dir_all(dir)?;
    for created in missing {
        let parent = created.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// The empty path stands for the working directory.
fn is_missing(path: &Path) -> bool {
    !path.as_os_str().is_empty() && !path.exists()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
