//! UEFI firmware: OVMF as Debian packages it, and what it keeps for each machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use madang_host::workload::DriverError;

use super::record::{UEFI_VARS, partial};

/// Where Debian's package `ovmf` puts it: code and empty variables, the newest form first.
const PLAIN: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
];

/// The same that only starts what is signed, with Microsoft's and Debian's keys.
const SECURE: &[(&str, &str)] = &[(
    "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
    "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
)];

/// The firmware's code and the machine's own variables, made from the empty ones at its first start.
///
/// # Errors
/// `Host` where the firmware is not installed.
pub(super) fn prepare(dir: &Path, is_secure: bool) -> Result<(PathBuf, PathBuf), DriverError> {
    let forms = if is_secure { SECURE } else { PLAIN };
    prepare_from(dir, forms)
}

fn prepare_from(dir: &Path, forms: &[(&str, &str)]) -> Result<(PathBuf, PathBuf), DriverError> {
    let found = forms
        .iter()
        .find(|(code, vars)| Path::new(code).exists() && Path::new(vars).exists());
    let Some((code, empty)) = found else {
        let missing = "there is no UEFI firmware on this host: install it with `apt-get install ovmf`";
        return Err(DriverError::Host(missing.into()));
    };
    let vars = dir.join(UEFI_VARS);
    if !vars.exists() {
        let partial = partial(dir, UEFI_VARS);
        fs::copy(empty, &partial)
            .and_then(|_| fs::rename(&partial, &vars))
            .map_err(DriverError::io(format!("write {}", vars.display())))?;
    }
    Ok((PathBuf::from(code), vars))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let (code, empty) = (dir.path().join("code"), dir.path().join("empty"));
        let forms = [(code.to_str().unwrap(), empty.to_str().unwrap())];
        let error = prepare_from(dir.path(), &forms).unwrap_err();
        assert!(error.to_string().contains("apt-get install ovmf"), "{error}");
        fs::write(&code, "code").unwrap();
        fs::write(&empty, "empty").unwrap();
        let (_, vars) = prepare_from(dir.path(), &forms).unwrap();
        fs::write(&vars, "kept").unwrap();
        prepare_from(dir.path(), &forms).unwrap();
        assert_eq!(fs::read_to_string(vars).unwrap(), "kept");
    }
}
