//! The server's datastore, as kine keeps it: SQLite in WAL mode, written to all the time. Every transaction adds one row
//! to each of two tables, so that a copy which is not of one moment shows; a server that finds one ends with 64.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use rusqlite::{Connection, OptionalExtension};

/// Between two writes of its own.
const PACE: Duration = Duration::from_millis(10);

/// The open datastore.
#[derive(Debug, Clone)]
pub struct Datastore(Arc<Mutex<Connection>>);

impl Datastore {
    /// Opens or makes it, checks it, and begins to write.
    pub fn open(data: &Path) -> anyhow::Result<Datastore> {
        let folder = data.join("server/db");
        std::fs::create_dir_all(&folder)?;
        let connection = Connection::open(folder.join("state.db")).context("open state.db")?;
        connection.busy_timeout(Duration::from_secs(30))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
             CREATE TABLE IF NOT EXISTS event (id INTEGER PRIMARY KEY AUTOINCREMENT, nodes TEXT);
             CREATE TABLE IF NOT EXISTS twin (id INTEGER PRIMARY KEY AUTOINCREMENT, filling BLOB);",
        )?;
        let rows = whole(&connection).unwrap_or_else(|error| {
            eprintln!("contract broken: the datastore is of no one moment: {error:#}");
            std::process::exit(i32::from(crate::BROKEN));
        });
        eprintln!("datastore: {rows} rows");
        let datastore = Datastore(Arc::new(Mutex::new(connection)));
        let writer = datastore.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(PACE);
                if let Err(error) = writer.add(None) {
                    eprintln!("datastore: {error:#}");
                }
            }
        });
        Ok(datastore)
    }

    /// The nodes that were registered last.
    pub fn nodes(&self) -> anyhow::Result<Option<String>> {
        let last = "SELECT nodes FROM event WHERE nodes IS NOT NULL ORDER BY id DESC LIMIT 1";
        Ok(self
            .lock()
            .query_row(last, [], |row| row.get(0))
            .optional()?)
    }

    /// Writes down the nodes.
    pub fn set_nodes(&self, text: &str) -> anyhow::Result<()> {
        self.add(Some(text))
    }

    fn add(&self, nodes: Option<&str>) -> anyhow::Result<()> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute("INSERT INTO event (nodes) VALUES (?1)", [nodes])?;
        transaction.execute("INSERT INTO twin (filling) VALUES (randomblob(500))", [])?;
        Ok(transaction.commit()?)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many rows it has, if it is whole.
fn whole(connection: &Connection) -> anyhow::Result<i64> {
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(check == "ok", "integrity_check: {check}");
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let rows = number("SELECT count(*) FROM event")?;
    let twins = number("SELECT count(*) FROM twin")?;
    let last = number("SELECT coalesce(max(id), 0) FROM event")?;
    ensure!(
        rows == twins && rows == last,
        "{rows} rows, {twins} twins, {last} the last"
    );
    Ok(rows)
}
