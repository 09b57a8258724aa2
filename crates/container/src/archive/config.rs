//! What an image says about how it is run.

use serde::{Deserialize, Serialize};

use super::{ImageError, blob::clip};

/// Signal numbers by name, as `kill -l` gives them without `SIG`; those a stop signal may reasonably be.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];
/// The first and last real-time signal a program sees (the C library keeps 32 and 33).
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;
/// Ends a process politely; what images that say nothing mean.
const SIGTERM: i32 = 15;

/// How an image wants to be run; the `config` of its configuration document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program and arguments: `Entrypoint` followed by `Cmd`; never empty.
    pub command: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// An absolute path.
    pub working_dir: String,
    /// `user`, `uid`, either with `:group` or `:gid`; empty for root.
    pub user: String,
    /// The number of the signal that asks it to end.
    pub stop_signal: i32,
    /// Such as `80/tcp`; sorted.
    pub exposed_ports: Vec<String>,
}

impl ImageConfig {
    /// From the image's configuration document.
    pub(super) fn from_document(config: Option<&oci_spec::image::Config>) -> Result<Self, ImageError> {
        let list = |field: Option<&Vec<String>>| field.cloned().unwrap_or_default();
        let text = |field: Option<&String>| field.cloned().unwrap_or_default();
        let mut command = list(config.and_then(|c| c.entrypoint().as_ref()));
        command.extend(list(config.and_then(|c| c.cmd().as_ref())));
        if command.first().is_none_or(String::is_empty) {
            return Err(ImageError::Broken(
                "the image names neither an entrypoint nor a command to run".into(),
            ));
        }
        let env = list(config.and_then(|c| c.env().as_ref()));
        if let Some(bad) = command.iter().chain(&env).find(|text| text.contains('\0')) {
            return Err(ImageError::Broken(format!(
                "the image's configuration holds a zero byte in {:?}",
                clip(bad)
            )));
        }
        let mut exposed_ports = list(config.and_then(|c| c.exposed_ports().as_ref()));
        exposed_ports.sort_unstable();
        let working_dir = text(config.and_then(|c| c.working_dir().as_ref()));
        Ok(Self {
            command,
            env,
            working_dir: format!("/{}", working_dir.trim_start_matches('/')),
            user: text(config.and_then(|c| c.user().as_ref())),
            stop_signal: stop_signal(&text(config.and_then(|c| c.stop_signal().as_ref())))?,
            exposed_ports,
        })
    }
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or nothing, as a number.
fn stop_signal(text: &str) -> Result<i32, ImageError> {
    if text.is_empty() {
        return Ok(SIGTERM);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = name
        .parse()
        .ok()
        .or_else(|| {
            SIGNALS
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, number)| *number)
        })
        .or_else(|| {
            Some(
                RT_MIN
                    + name
                        .strip_prefix("RTMIN")?
                        .trim_start_matches('+')
                        .parse::<u8>()
                        .map_or(0, i32::from),
            )
        })
        .or_else(|| {
            Some(
                RT_MAX
                    - name
                        .strip_prefix("RTMAX")?
                        .trim_start_matches('-')
                        .parse::<u8>()
                        .map_or(0, i32::from),
            )
        });
    number
        .filter(|number| (1..=RT_MAX).contains(number))
        .ok_or_else(|| ImageError::Broken(format!("the image's stop signal {:?} is unknown", clip(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ImageConfig, ImageError> {
        ImageConfig::from_document(Some(&serde_json::from_str(json).unwrap()))
    }

    #[test]
    fn entrypoint_and_command_are_joined() {
        let config = parse(
            r#"{"Entrypoint":["/init"],"Cmd":["a","b"],"Env":["A=1"],"WorkingDir":"srv","User":"www",
                "ExposedPorts":{"80/tcp":{},"443/tcp":{}},"Labels":null,"Volumes":null,"OnBuild":null}"#,
        )
        .unwrap();
        assert_eq!(config.command, ["/init", "a", "b"]);
        assert_eq!(
            (config.working_dir.as_str(), config.user.as_str(), config.stop_signal),
            ("/srv", "www", 15)
        );
        assert_eq!(config.exposed_ports, ["443/tcp", "80/tcp"]);
    }

    #[test]
    fn an_image_without_a_command_is_refused() {
        assert!(
            parse(r#"{"Cmd":null}"#)
                .unwrap_err()
                .to_string()
                .contains("neither an entrypoint nor a command")
        );
        assert!(ImageConfig::from_document(None).is_err());
    }

    #[test]
    fn stop_signals_in_all_spellings() {
        for (text, number) in [
            ("", 15),
            ("SIGQUIT", 3),
            ("usr1", 10),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(stop_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["SIGNOPE", "0", "65", "-1", "SIGRTMIN+99"] {
            assert!(stop_signal(bad).is_err(), "{bad}");
        }
    }
}
