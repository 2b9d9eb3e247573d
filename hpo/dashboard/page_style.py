"""What we change about optuna-dashboard's page: controls that the gate refuses, and narrow screens.

Its page is one HTML file that loads a program. We add a style sheet to it on the way out. The selectors
use what the program's library gives every release: labels for screen readers, names of icons, and classes
that begin with ``Mui``. ``tests/dashboard/test_page.py`` checks in a browser that they still hit.
"""

# Which no dashboard of ours accepts; see ``changes``.
REFUSED = (
    'button:has([data-testid="AddBoxIcon"])',  # create a study
    '[aria-label="rename study"]',
    '[aria-label="skip trial"]',
)
# Which a read-only one does not accept either.
CHANGING = (
    '[aria-label="delete study"]',
    '[aria-label="delete artifact"]',
    'button:has([data-testid="EditIcon"])',  # write a note
    '.MuiCard-root:has([data-testid="UploadFileIcon"])',
)
NARROW = """
@media (max-width: 700px) {
  main, main .MuiBox-root { min-width: 0 }
  main { max-width: calc(100vw - 58px); overflow-wrap: anywhere }
  main fieldset, main .MuiCardContent-root > .MuiBox-root,
  main .MuiCardContent-root > .MuiGrid-container, main .MuiChip-root + .MuiBox-root { flex-wrap: wrap }
  main .MuiTablePagination-toolbar { flex-wrap: wrap }
  main .MuiContainer-root { padding: 0 }
  main .MuiContainer-root .MuiTextField-root { max-width: calc(100% - 32px) }
  main .MuiBox-root > .MuiCard-root { max-width: calc(100% - 32px) }
  main .MuiGrid-item { flex: 0 0 100%; max-width: 100% }
  main .MuiBox-root:has(> .MuiDivider-vertical) { flex-direction: column }
  main .MuiBox-root:has(> .MuiDivider-vertical) > .MuiDivider-vertical { display: none }
  main .MuiBox-root:has(> .MuiDivider-vertical) > .MuiBox-root { width: 100%; height: auto; flex: none }
  main .MuiBox-root:has(> .MuiDivider-vertical) > .MuiBox-root:first-child { max-height: 30vh }
  main .MuiBox-root > p.MuiTypography-root:first-child { min-width: 90px }
}
"""


def add_style(html: str, *, read_only: bool) -> str:
    """Return optuna-dashboard's page with our style sheet.

    Args:
        html: The page.
        read_only: Whether the dashboard refuses every change.
    """
    hidden = ", ".join(REFUSED + CHANGING * read_only)
    return html.replace(
        "</head>", f"<style>{hidden} {{ display: none !important }}{NARROW}</style></head>", 1
    )
