"""The built documentation: complete links, nothing from another host, a search that works from files."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.workplace import ROOT

pytestmark = pytest.mark.processes

LOADED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "video": "src", "link": "href"}


class Page(HTMLParser):
    """The ids of a page, the addresses that it links to, and those that a browser loads for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.classes: set[str] = set()
        self.pictures: dict[str, str] = {}  # what describes each, by the name of its file
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        self.classes |= set(given.get("class", "").split())
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        if tag == "img" and "src" in given:
            self.pictures[given["src"].rpartition("/")[2]] = given.get("alt", "")
        if address := given.get(LOADED.get(tag, "")):
            self.loaded.add(address)


def pages_of(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def test_a_page_loads_nothing_from_another_host(site):
    for path, page in pages_of(site).items():
        assert not [each for each in page.loaded if urlsplit(each).netloc], path
        assert "mermaid" not in page.classes, f"{path}: the theme loads mermaid from another host"
    for path in site.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", path.read_text()), path


def test_every_link_within_the_site_leads_somewhere(site):
    pages, followed = pages_of(site), 0
    for path, page in pages.items():
        for address in page.links | page.loaded:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path}: {address}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path}: {address}"
            followed += 1
    assert followed


def test_search_works_in_a_page_that_was_opened_as_a_file(site, chromium):
    page = chromium.new_page()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.locator("[data-md-component=search-query]").first.press_sequentially("hyperparameter")
    page.locator(".md-search-result__item").first.wait_for(state="attached")
    assert requested
    assert not [url for url in requested if not url.startswith(("file:", "data:", "blob:"))]


def test_pictures_are_small_shown_somewhere_and_described(site):
    shown: dict[str, str] = {}
    for page in pages_of(site).values():
        shown |= page.pictures
    stored = {path.name: path for path in (ROOT / "docs" / "images").iterdir()}
    assert {name for name in stored if name not in shown} == set()
    assert all(len(shown[name]) > 10 for name in stored), "say in brackets what the picture shows"
    sizes = {name: path.stat().st_size for name, path in stored.items()}
    assert max(sizes.values()) < 150_000, sizes
    assert sum(sizes.values()) < 2_000_000, sizes
    for name, path in stored.items():
        assert name.endswith(".png") or not re.search(r"href=|url\(['\"]?http", path.read_text()), name
