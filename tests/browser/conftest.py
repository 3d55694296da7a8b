"""A real browser, and pages of files that must be quiet in it."""

import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Open a file or an address -> the page; at the end nothing may have been said, asked or fetched."""
    pages = []

    def start(place, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page, said = context.new_page(), []
        address = place if isinstance(place, str) else place.as_uri()
        page.on("console", lambda m: said.append(f"console: {m.text}"))
        page.on("pageerror", lambda e: said.append(f"error: {e}"))
        page.on("dialog", lambda d: said.append(f"dialog: {d.message}"))
        page.on("popup", lambda p: said.append(f"popup: {p.url}"))
        page.on("request", lambda r: r.url == address or said.append(f"request: {r.url}"))
        page.goto(address)
        pages.append((context, said))
        return page

    yield start
    for context, said in pages:
        context.close()
        assert said == []
