//! The file: an embedded store, one table from a running number to a batch's text.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError, TableDefinition,
};

use super::Kept;

const BATCHES: TableDefinition<u64, &[u8]> = TableDefinition::new("batches");

/// The file's name in its folder.
const FILE: &str = "settlements.redb";

/// Memory for its pages, bytes: it is written through and read once.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// The spool could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("PURSER_SPOOL_DIR {0}: another process uses this spool; every replica needs a folder of its own")]
    Taken(PathBuf),
    /// The folder or the disk.
    #[error("PURSER_SPOOL_DIR {0}: {1}")]
    Io(PathBuf, String),
    /// The operating system gives no thread.
    #[error("the spool's thread did not start: {0}")]
    Thread(std::io::Error),
}

/// Why one file could not be opened.
enum Trouble {
    Damaged(String),
    Taken,
    Io(String),
}

/// An open spool file.
pub struct Store {
    dir: PathBuf,
    /// `None` after the disk failed; opened again at the next attempt.
    database: Option<Database>,
    next: u64,
}

impl Store {
    /// Opens the file in a folder, which is made if it isn't there. A damaged file is set aside under
    /// another name, with a message, and a new one begun: what was in it is not lost, but somebody has to
    /// look, and its holds expire and are charged meanwhile.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let io = |error: &dyn std::fmt::Display| OpenError::Io(dir.to_owned(), error.to_string());
        // It says who called which model, and what that cost: nobody else's business.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| io(&error))?;
        let file = dir.join(FILE);
        let opened = match open(&file) {
            Err(Trouble::Damaged(reason)) => {
                let aside = dir.join(format!("{FILE}.damaged-{}", unix_now_us()));
                std::fs::rename(&file, &aside).map_err(|error| io(&error))?;
                tracing::error!(
                    reason,
                    kept_as = %aside.display(),
                    "the spool is damaged and set aside; a new one is begun. Settlements in it are not in the \
                     ledger; their holds expire and are charged in full"
                );
                open(&file)
            }
            opened => opened,
        };
        let database = opened.map_err(|trouble| match trouble {
            Trouble::Taken => OpenError::Taken(dir.to_owned()),
            Trouble::Damaged(reason) | Trouble::Io(reason) => OpenError::Io(dir.to_owned(), reason),
        })?;
        // Its name has to be on disk as well before anything in it is acknowledged.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| io(&error))?;
        let mut store = Self { dir: dir.to_owned(), database: Some(database), next: 0 };
        store.next = store.last().map_err(|error| io(&error))?.map_or(0, |last| last.saturating_add(1));
        Ok(store)
    }

    fn database(&mut self) -> Result<&Database, redb::Error> {
        if self.database.is_none() {
            let opened = open(&self.dir.join(FILE)).map_err(|trouble| match trouble {
                Trouble::Taken => redb::Error::DatabaseAlreadyOpen,
                // Not set aside while it is in use: the next start looks at it calmly.
                Trouble::Damaged(reason) | Trouble::Io(reason) => redb::Error::Corrupted(reason),
            })?;
            self.database = Some(opened);
        }
        self.database.as_ref().ok_or(redb::Error::DatabaseClosed)
    }

    /// After an error of the disk the store refuses everything; then it is closed and opened anew.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let done = self.database().and_then(work);
        if done.is_err() {
            self.database = None;
        }
        done
    }

    fn last(&mut self) -> Result<Option<u64>, redb::Error> {
        self.attempt(|database| {
            let write = database.begin_write()?;
            // Made here, so that readers find it.
            let last = write.open_table(BATCHES)?.last()?.map(|(id, _)| id.value());
            write.commit()?;
            Ok(last)
        })
    }

    /// How many batches are in it, and their bytes.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn size(&self) -> Result<(u64, u64), OpenError> {
        let count = || -> Result<(u64, u64), redb::Error> {
            let Some(database) = &self.database else { return Err(redb::Error::DatabaseClosed) };
            let (mut batches, mut bytes) = (0_u64, 0_u64);
            for entry in database.begin_read()?.open_table(BATCHES)?.iter()? {
                let (_, text) = entry?;
                batches = batches.saturating_add(1);
                bytes = bytes.saturating_add(u64::try_from(text.value().len()).unwrap_or(u64::MAX));
            }
            Ok((batches, bytes))
        };
        count().map_err(|error| OpenError::Io(self.dir.clone(), error.to_string()))
    }

    /// Adds batches; they are on disk when this comes back.
    ///
    /// # Errors
    /// The disk's; then none of them is in it.
    pub fn append(&mut self, texts: &[Vec<u8>]) -> Result<(), redb::Error> {
        let mut next = self.next;
        self.attempt(|database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(BATCHES)?;
                for text in texts {
                    table.insert(next, text.as_slice())?;
                    next = next.saturating_add(1);
                }
            }
            Ok(write.commit()?)
        })?;
        self.next = next;
        Ok(())
    }

    /// The oldest batches.
    ///
    /// # Errors
    /// The disk's.
    pub fn first(&mut self, count: usize) -> Result<Vec<Kept>, redb::Error> {
        self.attempt(|database| {
            let table = database.begin_read()?.open_table(BATCHES)?;
            let entries = table.iter()?.take(count);
            entries
                .map(|entry| entry.map(|(id, text)| (id.value(), text.value().to_vec())))
                .collect::<Result<_, _>>()
                .map_err(Into::into)
        })
    }

    /// Takes batches out; gives how many there were and their bytes.
    ///
    /// # Errors
    /// The disk's; then all are still in it.
    pub fn remove(&mut self, ids: &[u64]) -> Result<(u64, u64), redb::Error> {
        self.attempt(|database| {
            let write = database.begin_write()?;
            let (mut removed, mut bytes) = (0_u64, 0_u64);
            {
                let mut table = write.open_table(BATCHES)?;
                for id in ids {
                    if let Some(text) = table.remove(id)? {
                        removed = removed.saturating_add(1);
                        bytes = bytes.saturating_add(u64::try_from(text.value().len()).unwrap_or(u64::MAX));
                    }
                }
            }
            write.commit()?;
            Ok((removed, bytes))
        })
    }

    /// Writes a text into a file of its own beside the spool; gives its path.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_aside(&self, text: &[u8]) -> std::io::Result<PathBuf> {
        let path = self.dir.join(format!("unreadable-{}.json", unix_now_us()));
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text)?;
        file.sync_all()?;
        File::open(&self.dir)?.sync_all()?;
        Ok(path)
    }
}

fn open(file: &Path) -> Result<Database, Trouble> {
    let open =
        || Database::builder().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(file);
    // A file whose bytes are nonsense in the wrong place may make its reader panic.
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(mut database)) => {
            // Room that an earlier outage took; without it nothing is lost.
            let _compacted = database.compact();
            Ok(database)
        }
        Ok(Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch)) => {
            Err(Trouble::Taken)
        }
        Ok(Err(DatabaseError::Storage(StorageError::Io(error)))) if !is_damage(error.kind()) => {
            Err(Trouble::Io(error.to_string()))
        }
        Ok(Err(error)) => Err(Trouble::Damaged(error.to_string())),
        Err(_panic) => Err(Trouble::Damaged("its reader could make nothing of it".to_owned())),
    }
}

/// Whether an error of reading says that the bytes are wrong rather than that the disk is.
fn is_damage(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
}

fn unix_now_us() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros())
}
