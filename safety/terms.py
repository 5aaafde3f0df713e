"""What the prompt guard refuses, as data: terms by rule, their harmless uses, and a verdict for each style word.

A term is one word or several, in plain lower case. Matching is by whole words after the text has been normalised, so
"Essex" and "cockpit" need no entry here; `HARMLESS_PHRASES` lists the uses that do hold a refused word.
"""

from __future__ import annotations

from dataclasses import dataclass

SEXUAL_CONTENT = "sexual content"
MINORS = "minors"
STYLISED_DISTORTION = "stylised distortion of a real face"
HIDDEN_CONTENT = "content that the guard cannot see"
UNREADABLE_TEXT = "text that the guard cannot read"

RULES: dict[str, str] = {
    SEXUAL_CONTENT: "No nudity and nothing sexual is made of a real person.",
    MINORS: "Only adults are rendered. Say 'woman', 'man' or 'person', with an age of 18 or more.",
    STYLISED_DISTORTION: "The face must stay the person's own. Describe a photograph: light, place, lens, film.",
    HIDDEN_CONTENT: "What a tag or a wildcard brings in is not in the text. Use a loader node, or write the words out.",
    UNREADABLE_TEXT: "Write the prompt in Latin letters, in English.",
}


def _words(text: str) -> tuple[str, ...]:
    """Terms are parted by commas or line ends; each keeps its inner spaces."""
    return tuple(term.strip() for line in text.split("\n") for term in line.split(",") if term.strip())


# Several languages, because text encoders understand more than English.
SEXUAL_TERMS = _words(
    """
    nude, nudes, nudity, nudist, nudism, naked, nakedness, nekkid, nakid, unclothed, undressed, undressing
    undresses, undress, disrobed, disrobing, topless, bottomless, shirtless, braless, pantyless, no clothes
    no clothing, without clothes, without clothing, without any clothes, wearing nothing, not wearing anything
    birthday suit, in the buff, bare breasts, bare breasted, bare chested, bare bottom, bare buttocks
    exposed breasts, exposed chest, nsfw, not safe for work, porn, porno, pornographic, pornography, pornstar, pr0n
    xxx, x rated, r18, uncensored, hentai, ecchi, ahegao, rule34, sex, sexual, sexually, sexuality, sexualised
    sexualized, sexy, sexier, sexiest, secks, seggs, erotic, erotica, eroticism, sensual, seductive, seductively
    seduction, lewd, horny, kinky, slutty, aroused, arousal, orgasm, orgasmic, climaxing, masturbate, masturbating
    masturbation, intercourse, fornication, copulation, blowjob, handjob, fellatio, cunnilingus, deepthroat, cumshot
    cum, cumming, ejaculation, creampie, gangbang, orgy, threesome, incest, rape, raped, raping, rapist, molest
    molested, bdsm, bondage, fetish, fetishes, dominatrix, stripper, strippers, striptease, stripping, strip club
    stripped naked, pole dancer, escort girl, prostitute, hooker, slut, whore, milf, camgirl, onlyfans, pinup
    pin up girl, pin up model, pin up pose, pin up style, centerfold, centrefold, nudify, deepnude, lingerie
    underwear, undergarments, panties, panty, knickers, thong, g string, bra, bras, bikini, bikinis
    see through dress, see through clothes, see through clothing, see through shirt, see through top, wet t shirt
    wet tshirt, camel toe, cameltoe, upskirt, downblouse, sideboob, underboob, cleavage, breast, breasts, boob
    boobs, boobies, tit, tits, titties, titty, nipple, nipples, areola, areolae, genital, genitals, genitalia, penis
    penises, phallus, vagina, vaginal, vulva, labia, clitoris, pussy, pussies, cock, cocks, dick, dicks, testicles
    scrotum, erection, buttocks, butt, butts, ass, asses, arse, anus, anal, crotch, pubic, dildo, dildos, buttplug
    sex toy, fuck, fucked, fucking, nackt, nackte, nackter, nacktes, nacktfoto, nacktheit, desnudo, desnuda
    desnudos, desnudas, desnudez, nuda, nudo, nue, denudee, seins nus, tetas, brueste, titten, arsch, schwanz
    muschi, culo, puta, sexo, sexe
    """
)

MINOR_TERMS = _words(
    """
    child, children, childs, childlike, child like, kid, kids, kiddie, kiddo, toddler, toddlers, infant, infants
    newborn, newborns, baby, babies, babyish, teen, teens, teenage, teenaged, teenager, teenagers, preteen, preteens
    pre teen, tween, tweens, adolescent, adolescents, adolescence, pubescent, prepubescent, juvenile, juveniles
    underage, underaged, under age, under 18, under eighteen, minors, a minor girl, a minor boy, minor child
    minor female, minor male, minor person, is a minor, as a minor, girl, girls, boy, boys, loli, lolis, lolita
    lolicon, shota, shotacon, jailbait, barely legal, barely 18, schoolgirl, schoolgirls, schoolboy, schoolboys
    schoolchild, schoolchildren, school uniform, kindergartner, kindergartener, preschooler, preschoolers
    primary schooler, elementary schooler, middle schooler, high schooler, boy scout, girl scout, sweet sixteen
    kindergarten age, enfant, enfants, fillette, bambino, bambina, bambini, madchen, maedchen
    adolescente, criança
    """
)

HARMLESS_PHRASES = _words(
    """
    naked eye, naked eyes, naked flame, naked flames, naked bulb, naked bulbs, naked light bulb, naked branches
    nude lipstick, nude lipsticks, nude lip, nude lips, nude heels, nude pumps, nude shoes, nude nail polish
    nude nails, nude eyeshadow, nude makeup, nude tone, nude tones, nude colour, nude colours, nude color
    nude colors, nude shade, nude shades, nude palette, same sex couple, same sex wedding, same sex marriage
    opposite sex, sex reassignment, breast pocket, breast pockets, breast cancer, double breast, chicken breast
    robin red breast, blue tit, blue tits, great tit, great tits, coal tit, coal tits, long tailed tit
    long tailed tits, tit for tat, pussy willow, pussy willows, pussy cat, pussy bow, cum laude, moby dick
    weather cock, weather cocks, cock a doodle, water butt, water butts, cigarette butt, cigarette butts
    erection of, thong sandals, thong sandal, rape seed, rape field, rape fields, baby blue, baby pink, baby yellow
    baby breath, babys breath, baby grand, baby grand piano, baby hair, baby hairs, baby bump, baby carrots
    baby carrot, baby spinach, baby tomatoes, baby powder, kid leather, kid glove, kid gloves, kid suede, kid skin
    kid mohair, juvenile court, inner child, old boy network, girl with a pearl earring, girl friday
    illustrated book, illustrated books, illustrated manuscript
    """
)
"""A refused word inside one of these is let pass; the rest of the text is still checked."""


@dataclass(frozen=True)
class StyleVerdict:
    """What the guard decides about one style word, and why."""

    allowed: bool
    reason: str


_MEDIUM = "changes the medium or the surface and keeps the proportions of the face, so the drift still measures it"
_PROCESS = "a photographic process: light, grain or tone change, the face does not"
_EXAGGERATES = "exaggerates features by definition"
_REPLACES = "replaces the features of the face by drawn or modelled ones"
_OMITS = "leaves out or breaks up the features that the identity is measured by"
_DISTORTS = "changes the geometry of the face"


def _verdicts(allowed: bool, reason: str, terms: str) -> dict[str, StyleVerdict]:
    return {term: StyleVerdict(allowed, reason) for term in _words(terms)}


STYLE_VERDICTS: dict[str, StyleVerdict] = {
    **_verdicts(
        True,
        _PROCESS,
        """
        black and white, monochrome, sepia, film grain, 35mm film, polaroid, daguerreotype, tintype, cyanotype
        vintage photograph, cinematic, film noir, bokeh, long exposure, hdr, tilt shift, silhouette, golden hour
        studio lighting, documentary, editorial, fashion photograph
        """,
    ),
    **_verdicts(
        True,
        _MEDIUM,
        """
        oil painting, acrylic painting, portrait painting, fresco, watercolour, watercolor, gouache, pastel drawing
        charcoal drawing, pencil drawing, sketch, etching, engraving, woodcut, sculpture, statue, marble bust
        relief, renaissance, baroque, impressionist, photorealistic, hyperrealistic, surreal
        """,
    ),
    **_verdicts(
        False, _EXAGGERATES, "caricature, caricatures, caricatured, caricatural, bobblehead, big head, giant head"
    ),
    **_verdicts(
        False,
        _REPLACES,
        """
        cartoon, cartoons, cartoony, cartoonish, cartoonized, toon, anime, manga, manhwa, webtoon, waifu, chibi
        kawaii, pixar, dreamworks, disney, ghibli, simpsons, south park, family guy, comic style, comic book style
        comic strip, graphic novel style, claymation, plasticine, lego, minifigure, funko, funko pop, muppet, puppet
        marionette, doll, dolls, doll like, dolllike, barbie, bratz, mannequin, action figure, emoji, sticker style
        die cut sticker, 3d render, 3d rendering, 3d character, cgi, unreal engine, octane render
        video game character, digital art, concept art, fantasy art, illustration, illustrated, vector art, clip art
        clipart, avatar, vtuber, fursona, zombie, vampire, werewolf, goblin, elf ears, alien face, demon face
        robot face, cyborg, face swap, faceswap, deepfake, gender swap, genderswap
        """,
    ),
    **_verdicts(
        False,
        _OMITS,
        """
        line art, lineart, line drawing, stick figure, doodle, flat design, flat illustration, low poly, pixel art
        voxel, voxel art, 8 bit, 16 bit, cubist, cubism, picasso, abstract portrait, abstract face, expressionist
        expressionism, fauvism, pointillism, pointillist, pop art, glitch, glitch art, double exposure, faceless
        no face, graffiti portrait, ascii art
        """,
    ),
    **_verdicts(
        False,
        _DISTORTS,
        """
        distorted, distorted face, distortion, deformed, disfigured, mutated, mutation, melting face, warped face
        grotesque, fisheye, fish eye, funhouse mirror, surrealist, surrealism, dali style, bigger eyes, big eyes
        huge eyes, enlarged eyes, oversized eyes, slimmer nose, smaller nose, bigger lips, plastic surgery
        beauty filter, face filter, snapchat filter, long neck
        """,
    ),
}
"""Term -> verdict; allowed terms are listed to say so and need no match. The rule: a style passes while the face keeps
its proportions and its features, and is refused where by definition it exaggerates, replaces, omits or distorts."""

STYLED_OBJECTS = frozenset(
    _words(
        """
        shirt, shirts, tshirt, tshirts, mug, mugs, tie, ties, socks, museum, convention, festival, shop, store
        channel
        """
    )
)
"""After a refused style word these make it a thing in the scene ("a cartoon mug"), not a style of the face."""

AGED_THINGS = frozenset(
    _words(
        """
        whisky, whiskey, wine, port, rum, cognac, cheese, vinegar, house, houses, building, buildings, tree, trees
        oak, car, cars, truck, motorcycle, bicycle, book, books, camera, piano, violin, guitar, church, cottage
        barn, bridge, boat, ship, rug, jacket, photograph, photo, picture, dog, cat, horse, film, company, tradition
        recipe, wall, ruin, ruins, castle, beard, stubble, snow, newspaper, bread, scar
        """
    )
)
"""Things whose age is not a person's ("a 12 year old whisky")."""

COMPANIONS = frozenset(
    _words(
        """
        woman, women, man, men, person, people, lady, female, male, body, bodies, photo, photos, photograph, picture
        portrait, selfie, model, face, pic, pics, image, beach, girl, boy, style, scene, content, pose, posing, art
        version
        """
    )
)
"""Words that get written together with a refused one ("nudeportrait"); text encoders read both."""

ORDINARY_WORDS = frozenset({"a55", "t17", "rapping", "rapped", "who're", "brass's"})
"""Words and model numbers that leetspeak or doubled letters would turn into a refused one."""

ORDINARY_SPLITS = frozenset(
    map(
        tuple,
        map(
            str.split,
            _words(
                """
                pen is, an al, an us, but t, as s, t it, t its, to on, car to on, put a, shot a, who re
                le go, only fans, cream pie, lab i a, were wolf, pin up, bond age, we re wolf
                """
            ),
        ),
    )
)
"""Neighbouring plain words that only by chance spell a refused one when run together ("an al fresco lunch").
A known gap, kept for the sake of ordinary prompts: exactly these pieces, parted exactly there, are let pass."""

EMOJI: dict[str, str] = {
    "\N{NO ONE UNDER EIGHTEEN SYMBOL}": SEXUAL_CONTENT,
    "\N{BIKINI}": SEXUAL_CONTENT,
    "\N{BABY}": MINORS,
    "\N{CHILD}": MINORS,
    "\N{BOY}": MINORS,
    "\N{GIRL}": MINORS,
    "\N{BABY SYMBOL}": MINORS,
}
