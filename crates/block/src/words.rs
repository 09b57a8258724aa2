//! Enums that are a fixed set of words on the wire and at rest.

/// Declares such an enum, whose first word is its default; the words are the original's.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident {
        $(#[$first_doc:meta])* $first:ident = $first_word:literal
        $(, $(#[$variant_doc:meta])* $variant:ident = $word:literal)* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $(#[$first_doc])*
            #[default]
            #[serde(rename = $first_word)]
            $first,
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant),*
        }

        impl $name {
            /// Every word.
            pub const ALL: &'static [&'static str] = &[$first_word $(, $word)*];

            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { Self::$first => $first_word, $(Self::$variant => $word),* }
            }

            /// What a word means; none for one that is not known.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $first_word => Some(Self::$first), $($word => Some(Self::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use words;
