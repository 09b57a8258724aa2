//! Accounts: there as soon as somebody has something.

use super::{Account, Headers, Listed, ObjectError, Objects, Rows, Use, read, read_at, use_of, write};
use crate::{
    Stamp,
    disk::Tx,
    key,
    listing::{self, Line, Wanted},
};

impl Objects {
    /// An account and what it uses; none where nothing was ever written.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn account(&self, account: &str) -> Result<Option<(Account, Use)>, ObjectError> {
        let account = account.to_owned();
        let look = self.disk.view(move |view| {
            let row: Option<Account> = read_at(view, &key::account(&account))?;
            let used = use_of(view, &key::account_use(&account))?;
            Ok::<_, ObjectError>(row.map(|row| (row, used)))
        });
        look.await
    }

    /// Changes what is set on an account, which is made where it is not there. Whether it was.
    ///
    /// # Errors
    /// What `change` refuses, or when it cannot be written.
    pub async fn set_account(
        &self,
        account: &str,
        change: impl FnOnce(&mut Headers) -> Result<(), ObjectError> + Send + 'static,
    ) -> Result<bool, ObjectError> {
        let account = account.to_owned();
        let set = self.disk.transact(move |tx| {
            let (mut row, is_there) = row_or_new(tx, &account)?;
            change(&mut row.headers)?;
            tx.put(&key::account(&account), write(&row))?;
            Ok::<_, ObjectError>(is_there)
        });
        set.await
    }

    /// The containers of an account.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn containers(&self, account: &str, wanted: Wanted) -> Result<Vec<Line<Listed>>, ObjectError> {
        let account = account.to_owned();
        let look = self.disk.view(move |view| {
            let rows = Rows {
                look: view,
                prefix: key::containers(&account),
                read: read::<super::Container>,
            };
            let lines = listing::list(&rows, &wanted)?;
            let lines = lines.into_iter().map(|line| match line {
                Line::Group(name) => Ok(Line::Group(name)),
                Line::One(name, (container, _)) => {
                    let used = use_of(view, &key::container_use(container.id))?;
                    Ok(Line::One(name, Listed { container, used }))
                }
            });
            lines.collect::<Result<_, ObjectError>>()
        });
        look.await
    }
}

/// The account's row, or that of a new one; and whether it was there.
pub(super) fn row_or_new(tx: &Tx<'_>, account: &str) -> Result<(Account, bool), ObjectError> {
    let row: Option<Account> = read_at(tx, &key::account(account))?;
    let is_there = row.is_some();
    let new = || Account {
        created: Stamp::now(),
        ..Account::default()
    };
    Ok((row.unwrap_or_else(new), is_there))
}
